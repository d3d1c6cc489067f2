"""Code of functions that only kernels call: linked into a kernel's, and compiled there alone.

Numba would optimise each such function by itself, too, and make machine code of it that nothing
runs: a third of the time of a first call.
"""

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _LinkedCode(JITCodeLibrary):
    """The code of a function and of those that it calls, not optimised."""

    def finalize(self):
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    # What Numba asks of machine code: there is none.

    @property
    def codegen(self):
        return self

    def get_pointer_to_function(self, name):
        return 0

    def set_env(self, name, env):
        pass


class _NeverInlinedCode(_LinkedCode):
    """The same, but LLVM does not inline it."""

    attributes = ("noinline",)

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:
            if not function.is_declaration and "alwaysinline" not in function.attributes:
                for name in self.attributes:
                    function.attributes.add(name)
        super().add_ir_module(ir_module)


class _RareCode(_NeverInlinedCode):
    """The same, and LLVM saves registers around the calls, not in the code that makes none."""

    attributes = ("noinline", "cold")


class _OptimisedCode(_LinkedCode):
    """The same, but optimised by itself before LLVM inlines it."""

    def finalize(self):
        super().finalize()
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class LinkedCompiler(Compiler):
    """Numba's compiler of functions that only kernels call."""

    code = _LinkedCode

    def define_pipelines(self):
        """Numba's own, for code of this kind."""
        state = self.state
        state.library = self.code(state.targetctx.codegen(), state.func_id.func_qualname)
        return super().define_pipelines()


class NeverInlinedCompiler(LinkedCompiler):
    """The same for functions that stay apart."""

    code = _NeverInlinedCode


class RareCompiler(LinkedCompiler):
    """The same for functions that are rarely called."""

    code = _RareCode


class OptimisedCompiler(LinkedCompiler):
    """The same for functions that are optimised by themselves."""

    code = _OptimisedCode
