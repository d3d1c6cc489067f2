"""Few threads and short chunks, so that a simulated call takes less than a second."""

from fastxent.cuda import binary, conversion, divisors, labels, launch, scale, thread_plans

thread_plans.PLANS = ((4, 2), (16, 1), (32, 2), (64, 2))
thread_plans.PLANS_OF_SINGLES = ((4, 2), (64, 2))
thread_plans.PLANS_OF_COLUMNS = ((1, 8), (1, 16), (2, 16))
thread_plans.RESIDENT = {1: 64, 2: 64, 4: 64}
thread_plans.SMALL_BLOCK, thread_plans.SHORT, thread_plans.COLUMN_BLOCK = 32, 6, 64
launch.THREADS = conversion.THREADS = scale.THREADS = 32
divisors.CHUNK = labels.CHUNK = 50
binary.THREADS, binary.VECTORS, binary.ELEMENTS = 64, 1, 512
thread_plans.LONG_OPTIONS = {4: (64, 16), 2: (64, 32)}
thread_plans.LONG_SOFTMAX, thread_plans.LONG_OLDER = {4: (64, 16)}, {4: (64, 8)}
