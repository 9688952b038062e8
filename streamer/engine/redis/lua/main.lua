-- Answer a call: the result of its operation, and the views of the jobs that it has ended.
local limits -- as they were packed

local function serve(keys, args)
  ARGV, HEARD, ENDED_JOBS, PLACES = args, {}, {}, nil
  if keys[1] ~= P then
    P = keys[1]
    for _, assign in ipairs(ROOTS) do assign() end
  end
  if args[3] ~= limits then
    C = cmsgpack.unpack(args[3])
    limits = args[3]
  end
  if args[2] == '' then
    local time = call('TIME')
    now = time[1] + time[2] / 1000000
  else
    now = tonumber(args[2])
  end
  local answer = {OPS[args[1]]() or false}
  for i, one in ipairs(HEARD) do answer[i + 1] = one end -- `unpack` takes 8,000 at most
  return answer
end
