"""Jobs, shapes and types of the GPU benchmark, and the bytes that each must move."""

CLASSES = [256, 1024, 4096, 8192, 16384, 32768, 65536, 128256, 262144]
FEW_ROWS = [(1, 128256), (16, 32768), (16, 128256), (256, 4096)]
SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
# For `answers.error`: the error of a row relative to its numbers, each of them rounded once.
TOLERANCE = {"float32": 2e-5, "bfloat16": 8e-3, "float16": 1e-3}
# How many arrays of the logits' size a job has to read or write.
ARRAYS = {"cross_entropy": 2, "loss": 1, "softmax": 2}
SMALL = 32, 1000  # the shape of a call whose time is Python's


def shapes(args, gpu, dtype):
    """Rows and classes of --shapes; where only classes are named, rows that fill a gigabyte."""
    size = min(1 << 30, gpu.free() // 16)
    if args.quick or args.dry:
        size = min(size, 1 << 21)
    requested = args.shapes or [*map(str, CLASSES), *(f"{n}x{c}" for n, c in FEW_ROWS)]
    for text in requested:
        rows, _, classes = text.rpartition("x")
        yield int(rows) if rows else max(1, size // SIZES[dtype] // int(classes)), int(classes)


def copied_rows(job, rows):
    """Number of rows whose copy reads and writes the bytes of a job."""
    return max(1, rows // 2) if ARRAYS[job] == 1 else rows


def bytes_moved(job, peer, rows, classes, dtype):
    """The least number of bytes that a job reads and writes."""
    if peer == "copy":
        return 2 * copied_rows(job, rows) * classes * SIZES[dtype]
    per_row = 0 if job == "softmax" else rows * (8 + 4)  # a label, a loss
    return ARRAYS[job] * rows * classes * SIZES[dtype] + per_row
