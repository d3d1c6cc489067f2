"""Compile functions that only kernels call as parts of the kernels, not on their own.

Numba would also optimise each such function by itself and emit machine code that is never run,
which takes a third of a first call's time.
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

    # Numba's interface to machine code: there is none.

    @property
    def codegen(self):
        return self

    def get_pointer_to_function(self, name):
        return 0

    def set_env(self, name, env):
        pass


class _NeverInlinedCode(_LinkedCode):
    """Code that LLVM does not inline."""

    attributes = ("noinline",)

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:
            if not function.is_declaration and "alwaysinline" not in function.attributes:
                for name in self.attributes:
                    function.attributes.add(name)
        super().add_ir_module(ir_module)


class _RareCode(_NeverInlinedCode):
    """Code that is rarely run: LLVM saves registers around the calls alone."""

    attributes = ("noinline", "cold")


class _OptimisedCode(_LinkedCode):
    """Code that is optimised separately before LLVM inlines it."""

    def finalize(self):
        super().finalize()
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class LinkedCompiler(Compiler):
    """Numba's compiler of functions that only kernels call."""

    code = _LinkedCode

    def define_pipelines(self):
        """Numba's pipelines, with this class's kind of code."""
        state = self.state
        state.library = self.code(state.targetctx.codegen(), state.func_id.func_qualname)
        return super().define_pipelines()


class NeverInlinedCompiler(LinkedCompiler):
    """The compiler of functions that are never inlined."""

    code = _NeverInlinedCode


class RareCompiler(LinkedCompiler):
    """The compiler of functions that are rarely called."""

    code = _RareCode


class OptimisedCompiler(LinkedCompiler):
    """The compiler of functions that are optimised separately."""

    code = _OptimisedCode
