-- The checks of an admission. The tests' `decision.py` does the same.

-- In this order a denial has the first code that applies.
local CODES = {
  'audit_backlog', 'unavailable', 'rate_limit_exceeded', 'concurrency_exceeded', 'budget_exhausted', 'budget_reserved',
  'token_rate_exceeded',
}

-- A tenant or a key with these limits and budgets. `fields` are those of COUNTERS, `first` is the first of the subject. Appends
-- those of its budgets to `names`.
local function begin_subject(rules, fields, first, periods, names)
  local budgets = {}
  for i, period in ipairs(periods) do
    if rules.budgets[i] >= 0 then
      names[#names + 1] = fields[first + i - 1]
      budgets[#budgets + 1] = {index = i, period = period, limit = rules.budgets[i], name = #names}
    end
  end
  return {rpm = rules.rpm, tpm = rules.tpm, concurrent = rules.concurrent, budgets = budgets}
end

-- Adds the state of a subject: `used` has the values of these names, and `held` the sums of `held_sums`.
local function load_subject(subject, window, used, held)
  subject.window, subject.in_flight = window, held.requests
  for _, budget in ipairs(subject.budgets) do
    budget.used = tonumber(used[budget.name] or 0)
    budget.left = budget.limit - budget.used - held.tokens[budget.index]
  end
end

-- The reply. The limits are those with the least remaining: of key and tenant, and of all budgets.
local function answer(both, now, status, at, input_held, cap, retry_after, replica, queued)
  local by_requests, by_tokens, budget, resets = both[1], both[1], nil, now
  for _, each in ipairs(both) do
    if each.rpm - each.window.requests < by_requests.rpm - by_requests.window.requests then
      by_requests = each
    end
    if each.tpm - each.window.tokens < by_tokens.tpm - by_tokens.window.tokens then
      by_tokens = each
    end
    if each.window.last > 0 then
      resets = math.max(resets, each.window.last + WINDOW_MS)
    end
    for _, candidate in ipairs(each.budgets) do
      if not budget or candidate.left < budget.left then
        budget = candidate
      end
    end
  end
  return {
    status, at, input_held, cap, retry_after,
    by_requests.rpm, math.max(0, by_requests.rpm - by_requests.window.requests),
    by_tokens.tpm, math.max(0, by_tokens.tpm - by_tokens.window.tokens),
    budget and budget.period.name or '', budget and math.max(0, budget.left) or 0,
    math.ceil((resets - now) / 1000), replica or '', queued or 0,
  }
end

-- `bounds` are those of the shard, `running` is the number of holds. `is_counted` means that the request waited, so that its arrival has passed the checks of
-- requests and is counted.
local function decide(both, bounds, now, running, input, requested, is_counted)
  local denials, denied, latest, known = {}, false, now, true
  local function deny(code, passes_at)
    denials[code], denied = true, true
    known = known and passes_at ~= NEVER
    latest = math.max(latest, passes_at)
  end

  if not is_counted and redis.call('XLEN', EVENTS) >= bounds.backlog_max then
    deny('audit_backlog', NEVER)
  end
  if not is_counted and running >= bounds.running_max then
    deny('unavailable', NEVER)
  end
  local least, most = input + math.min(requested, 1), requested
  for _, each in ipairs(both) do
    if not is_counted and each.window.requests + 1 > each.rpm then
      deny('rate_limit_exceeded', free_at(each.window, each.rpm - 1, each.window.tokens))
    end
    if not is_counted and each.in_flight + 1 > each.concurrent then
      deny('concurrency_exceeded', NEVER)
    end
    most = math.min(most, each.tpm - input)
  end
  local cap = most
  for _, each in ipairs(both) do
    for _, budget in ipairs(each.budgets) do
      cap = math.min(cap, budget.left - input)
      if budget.limit - budget.used < least then
        deny('budget_exhausted', budget.limit >= least and budget.period.resets or NEVER)
      elseif budget.left < least then
        deny('budget_reserved', NEVER)
      end
    end
  end
  if input + most < least then
    deny('token_rate_exceeded', NEVER)
  else
    local fits = true
    for _, each in ipairs(both) do
      fits = fits and each.window.tokens + input + cap <= each.tpm
    end
    -- A request that is denied for another reason is checked with the most output that it can get: a budget that
    -- shortens it now may have been reset by the time of the retry.
    if denied or not fits then
      for _, each in ipairs(both) do
        if each.window.tokens + input + most > each.tpm then
          deny('token_rate_exceeded', free_at(each.window, each.window.requests, each.tpm - input - most))
        end
      end
    end
  end

  if not denied then
    return 'admitted', cap, NEVER
  end
  local retry_after = known and math.max(1, math.ceil((latest - now) / 1000)) or NEVER
  for _, code in ipairs(CODES) do
    if denials[code] then
      return code, 0, retry_after
    end
  end
end

