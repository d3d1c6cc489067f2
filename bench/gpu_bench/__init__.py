"""The parts of `bench/gpu.py`.

`schedule` is the order of what is measured, `steps` makes its steps, and `session` runs them within
a limit by the estimates of `costs`. `cases` has jobs, shapes, types and bytes; `arrays` what they
are computed from; `devices` and `dry` are the GPU and its stand-in; `sides` and `torch_sides` the
calls that are compared; `checks` compares with float64; `races`, `plans`, `python_cost` and
`timing` time; `rows` and `report` write and print. Only `internals` reaches into the package.
`pytest_results` is for pytest: it writes each test's result at once.
"""
