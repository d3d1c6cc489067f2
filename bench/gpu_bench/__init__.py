"""The parts of `bench/gpu.py`.

`schedule` defines the order, `steps` makes the steps, and `session` runs them within a time limit,
with the estimates of `costs`. `cases` has jobs, shapes, types and numbers of bytes; `arrays` has
the inputs; `devices` and `dry` are the GPU and its stand-in; `sides` and `torch_sides` are the
calls that are compared. `checks` compares answers with float64; `races`, `plans`, `python_cost` and
`timing` measure times; `rows` and `report` format results. Only `internals` uses internals of the
package. `pytest_results` is a plugin of pytest that writes the result of each test immediately.
"""
