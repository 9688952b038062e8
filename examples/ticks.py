"""Print a line every 200 ms, with the time at which it was printed."""

import time

for number in range(1, 11):
    print(f"{time.strftime('%H:%M:%S')}.{time.time_ns() // 1_000_000 % 1000:03} line {number}")
    time.sleep(0.2)
