-- How the slots of a replica are learnt when their number is `auto`. The tests' `learning.py` does the same.
--
-- Ollama runs the requests for a loaded model in the order of their arrival, as many at a time as it has slots, and the others
-- wait in its line. So n + 1 requests for one model prove n + 1 slots if they run at one instant. A *trial* is a request that
-- is observed for this proof, with the `older` ones that run when it begins:
-- - A probe is the only request beyond the slots. Its proof adds a slot, and the next probe follows at once. After as many
--   failures as there are slots, no probe is sent for a while that doubles up to BACKOFF_MAX_MS.
-- - A check is the request that takes the last slot, every CHECK_MS. A replica may have been restarted with fewer slots. After
--   many failures in a row a slot is removed.
-- A failure proves nothing, because one of the older requests may have ended by coincidence. A load only makes a trial last longer.
--
-- Times of the meter are ms since it opened a request, which was after the grant: `first` (the first token, -1 for none yet),
-- `last` (the latest bytes) and `age` (now). A request still ran at the time of its grant + `last`, and its first token came
-- no later than now - (age - first). Only these two bounds are compared, so the delays between the processes prove nothing.
-- The instant is the first token of the trial. An older request ran then if it still ran afterwards, because it had arrived
-- before. One that was granted less than ARRIVAL_MS earlier may have been overtaken on the way, and must have its token too.
--
-- LEARNING has per replica: failed (probes since the latest proof or pause), missed (checks since the latest proof), backoff (ms),
-- probe_at and check_at (ms, not before), and of a trial: id, is_probe, token (ms, once known), until_ms (when it is given up),
-- seen, ended, and older: request id -> {seen, first, young, ended}. `seen` is the latest time at which the request still ran,
-- `first` that of its first token.
local learning = lazily(function()

local BACKOFF_MIN_MS, BACKOFF_MAX_MS, CHECK_MS, VERDICT_MS, MISSES_MIN, ARRIVAL_MS = 1000, 60000, 60000, 15000, 8, 500
-- A replica with more requests than this is not probed, because a trial reads them all.
local OLDER_MAX = 1000

local function read_learning(replica)
  local text = redis.call('HGET', LEARNING, replica)
  return text and cjson.decode(text) or {failed = 0, missed = 0, backoff = BACKOFF_MIN_MS, probe_at = 0, check_at = 0}
end

local function write_learning(replica, state)
  redis.call('HSET', LEARNING, replica, cjson.encode(state))
end

-- Ends a trial: 'proof', 'failure', or 'nothing' when the request failed or left before its first token.
local function conclude(now, replica, state, verdict)
  local slots, is_learnt = capacity().slots_of(replica)
  local is_probe = state.trial.is_probe
  state.trial = nil
  if not is_learnt then
    return
  end
  if verdict == 'proof' then
    state.failed, state.missed, state.backoff, state.check_at = 0, 0, BACKOFF_MIN_MS, now + CHECK_MS
    if is_probe then
      capacity().set_learnt(replica, slots + 1)
    end
  elseif not is_probe then
    state.missed = state.missed + (verdict == 'failure' and 1 or 0)
    if state.missed >= math.max(MISSES_MIN, 4 * slots) then
      state.missed, state.backoff = 0, BACKOFF_MIN_MS
      capacity().set_learnt(replica, math.max(1, slots - 1))
    end
  elseif verdict == 'nothing' then
    state.probe_at = now + BACKOFF_MIN_MS
  else
    state.failed = state.failed + 1
    if state.failed >= slots then
      state.failed, state.probe_at = 0, now + state.backoff
      state.backoff = math.min(BACKOFF_MAX_MS, 2 * state.backoff)
    end
  end
end

-- 'proof', 'failure', or nil while a report is missing.
local function verdict_of(trial)
  local instant, is_open = trial.token, false
  for _, each in pairs(trial.older) do
    if each.young and not each.first then
      if each.ended then
        return 'failure'
      end
      is_open = true
    elseif each.young then
      instant = math.max(instant, each.first)
    end
  end
  local function ran(each)
    if each.seen <= instant then
      is_open = true
      return not each.ended
    end
    return true
  end
  for _, each in pairs(trial.older) do
    if not ran(each) then
      return 'failure'
    end
  end
  if instant > trial.token and not ran(trial) then
    return 'failure'
  end
  return not is_open and 'proof' or nil
end

local function judge(now, replica, state)
  local trial = state.trial
  if trial.token then
    local verdict = verdict_of(trial)
    if verdict or now >= trial.until_ms then
      conclude(now, replica, state, verdict or 'failure')
    end
  end
end

-- Whether a trial may begin with the request that is granted next. `running` is the number of those that run.
local function is_trial_due(now, replica, state, slots, running)
  if state.trial then
    judge(now, replica, state)
  end
  if state.trial then
    return false
  end
  return (running == slots and now >= state.probe_at) or (running == slots - 1 and slots > 1 and now >= state.check_at)
end

-- The requests that run at a replica, as a trial has them; nil when another model runs there too.
local function older_requests(now, replica, model)
  if redis.call('HLEN', SLOTS) > OLDER_MAX then
    return nil
  end
  local all, older = redis.call('HGETALL', SLOTS), {}
  for i = 1, #all, 2 do
    local slot = read_slot(all[i + 1])
    if slot.replica == replica then
      if slot.model ~= model then
        return nil
      end
      local is_young = not slot.at or slot.at + ARRIVAL_MS > now
      older[all[i]] = {seen = slot.seen or 0, first = slot.first, young = is_young or nil}
    end
  end
  return older
end

-- The older requests of a trial that begins now with a request for `model`, nil when none may.
local function plan_trial(now, replica, model, slots, running)
  local state = read_learning(replica)
  if not is_trial_due(now, replica, state, slots, running) then
    return nil
  end
  local older = older_requests(now, replica, model)
  if not older then
    state.probe_at = math.max(state.probe_at, now + BACKOFF_MIN_MS)
    state.check_at = math.max(state.check_at, now + BACKOFF_MIN_MS)
    write_learning(replica, state)
  end
  return older
end

local function begin_trial(replica, request_id, is_probe, older)
  local state = read_learning(replica)
  state.trial = {id = request_id, is_probe = is_probe, older = older, seen = 0}
  write_learning(replica, state)
end

-- Notes what the meter reports about a request with a slot of a learnt replica: that it `has_ended`, or at least left the replica.
local function observe(now, replica, request_id, slot, first, last, age, has_ended)
  if slot.at and now >= slot.at then
    slot.seen = math.max(slot.seen or 0, slot.at + last)
    if first >= 0 and not slot.first then
      slot.first = now - (age - first) + 1
    end
  end
  local state = read_learning(replica)
  local trial = state.trial
  if not trial then
    return
  end
  local each = trial.id == request_id and trial or trial.older[request_id]
  if not each then
    return
  end
  each.seen, each.ended = slot.seen or 0, has_ended or nil
  if each == trial and slot.first and not trial.token then
    trial.token, trial.until_ms = slot.first, now + VERDICT_MS
  elseif each ~= trial then
    each.first = slot.first
  end
  if trial.ended and not trial.token then
    conclude(now, replica, state, 'nothing')
  else
    judge(now, replica, state)
  end
  write_learning(replica, state)
end

return {
  plan_trial = plan_trial, begin_trial = begin_trial, observe = observe,
}
end)

