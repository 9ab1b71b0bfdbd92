-- The ratio of counted to estimated input tokens of a tenant's requests to a model. The tests' `calibration.py` does the
-- same.
--
-- Per model 'mean:deviation' in thousandths of the estimate, smoothed as TCP smooths round-trip times (RFC 6298). The
-- corrected estimate is rarely too low, and it is higher the more the samples vary.

local ESTIMATE_MIN, MODELS_MAX, TTL_MS = 20, 200, 30 * 86400000

local function calibrated(model)
  local mean, deviation = string.match(redis.call('HGET', CALIBRATION, model) or '', '^(%d+):(%d+)$')
  return tonumber(mean), tonumber(deviation)
end

local function corrected(model, estimate)
  local mean, deviation = calibrated(model)
  if not mean then
    return estimate
  end
  return math.ceil(estimate * math.max(200, math.min(8000, mean + 2 * deviation)) / 1000)
end

local function learn(model, estimate, counted)
  if estimate < ESTIMATE_MIN then
    return
  end
  local sample = math.max(100, math.min(8000, math.floor(counted * 1000 / estimate)))
  local mean, deviation = calibrated(model)
  if mean then
    local difference = sample - mean
    mean, deviation = mean + math.floor(difference / 8), deviation + math.floor((math.abs(difference) - deviation) / 4)
  elseif redis.call('HLEN', CALIBRATION) < MODELS_MAX then
    mean, deviation = sample, math.floor(sample / 4)
  else
    return
  end
  redis.call('HSET', CALIBRATION, model, string.format('%.0f:%.0f', mean, deviation))
  redis.call('PEXPIRE', CALIBRATION, TTL_MS)
end

