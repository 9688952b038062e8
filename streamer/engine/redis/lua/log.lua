-- Logs: one stream a job, whose entries have its dense numbers, and a message to who follows it.
local EVENT_BYTES = 64

local function job_key(id) return P .. 'job:' .. id end
local function log_key(id) return P .. 'log:' .. id end

-- Append events, which are kind, data, kind, data...
local function write(id, events)
  local key = job_key(id)
  local n = num(call('HGET', key, 'n'))
  local lines, size, output = {n + 1}, 0, false
  for i = 1, #events, 2 do
    n = n + 1
    call('XADD', log_key(id), '1-' .. n, events[i], events[i + 1])
    -- The data of an event is one line.
    lines[#lines + 1] = events[i] .. ' ' .. events[i + 1]
    size = size + #events[i + 1] + EVENT_BYTES
    output = output or events[i] == 'output'
  end
  call('HSET', key, 'n', n)
  call('HINCRBY', key, 'log', size)
  add('log', size)
  if output then call('HSETNX', key, 'first_output', exact(now)) end
  ring('log:' .. id, table.concat(lines, '\n'))
end

-- Drop the oldest events, at least `size` bytes; the newest always stays.
local function drop_events(id, size)
  local key = job_key(id)
  local f = call('HMGET', key, 'n', 'first')
  local last, first, dropped = num(f[1]), num(f[2]), 0
  while dropped < size and first < last do
    local entries = call('XRANGE', log_key(id), '-', '1-' .. (last - 1), 'COUNT', 64)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      if dropped >= size then break end
      dropped = dropped + #entry[2][2] + EVENT_BYTES
      first = first + 1
    end
    call('XTRIM', log_key(id), 'MINID', '1-' .. first)
  end
  call('HSET', key, 'first', first)
  plus(key, 'log', -dropped)
  add('log', -dropped)
end
