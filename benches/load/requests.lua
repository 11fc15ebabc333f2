-- Sends the requests of the file $REQUESTS by turns: one a line, its method, path, header's name and value, and body
-- between tabs. With $PAUSE each connection waits that many milliseconds between two of them, more or less.
local requests, number = {}, 0

function init()
  for line in io.lines(os.getenv("REQUESTS")) do
    local method, path, name, value, body = line:match("([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)")
    local headers = {}
    if name ~= "" then headers[name] = value end
    requests[#requests + 1] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
  local pause = tonumber(os.getenv("PAUSE"))
  if pause > 0 then
    delay = function() return math.random(0, 2 * pause) end
  end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
