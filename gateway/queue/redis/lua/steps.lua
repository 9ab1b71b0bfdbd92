-- What grants slots, and what ends a request. Scripts that decide on more than the queue use it too.

-- Whether slots are granted. They are not while running requests are re-established, after Redis lost data or may have.
local function is_open(now)
  local run, since = run_id(), number('since')
  if field('run') ~= run then
    since = now
    set_fields('run', run, 'since', since)
  end
  return now < since or now >= since + RESTORE_MS
end

-- Removes what has expired, and grants every free slot that a ticket waits for. So the queue needs no other process for that.
-- Returns whether slots are granted, and whether tickets waited.
local function advance(now)
  local waits = any_waits()
  if waits then
    line().promote(now)
  end
  if not is_open(now) then
    return false, waits
  end
  if field('reap_at') and now >= number('reap_at') then
    line().reap(now)
  end
  while waits and line().grant_next(now) do
  end
  return true, waits
end

-- Removes the slot or the ticket of a request, and returns the slot and the ticket, of which at most one exists.
local function take(request_id)
  local slot = load_slot(request_id)
  if slot then
    remove_slot(request_id, slot)
    return slot, nil
  end
  local ticket = load_ticket(request_id)
  if ticket then
    line().remove_ticket(request_id, ticket)
  end
  return nil, ticket
end

-- Removes a request, which is not ended, and charges its tokens. Returns whether it was known, and whether tickets wait. `first`
-- and `duration` are the times of its first token and of its end, see learning.lua, -1 when they are unknown.
local function remove(request_id, tokens, first, duration)
  -- Redis accepts these deletions, and all that follows them, even when it is out of memory.
  local slot, ticket = take(request_id)
  local request = slot or ticket
  if slot and slot.auto then
    first = duration >= 0 and first or -1
    learning().observe(clock(), slot.replica, request_id, slot, first, math.max(0, duration), duration, true)
  end
  local waits = any_waits()
  if not reset_if_idle(waits) and (slot or (ticket and ticket.charged > 0)) then
    charge(request, tokens)
  end
  return request and true or false, waits
end

-- Ends a request like `remove`, and grants its slot to the next ticket. Returns whether it was known.
local function leave(request_id, tokens, first, duration)
  local was_known, waits = remove(request_id, tokens, first, duration)
  if waits then
    advance(clock())
  end
  return was_known
end

