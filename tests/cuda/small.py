"""Few threads and short chunks, so that a simulated call takes less than a second."""

from fastxent.cuda import binary, launch

launch.PLANS = ((4, 2), (16, 1), (32, 2), (64, 2))
launch.PLANS_OF_SINGLES = ((4, 2), (64, 2))
launch.RESIDENT, launch.SMALL_BLOCK, launch.SHORT = {1: 64, 2: 64}, 32, 6
launch.THREADS, launch.CHUNK = 32, 50
binary.THREADS, binary.VECTORS, binary.ELEMENTS = 64, 1, 512
