//! Proves that the fixed-point path needs no float: links a program that calls all of `qat_kernels::fixed` for a core
//! without an FPU, and looks in it for the run-time routines that float arithmetic becomes there, and for panic paths.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use object::read::elf::ElfFile32;
use object::{Object as _, ObjectSymbol as _};

use crate::bare_metal::Toolchain;
use crate::emulator::M0;
use crate::firmware::build;
use crate::panic_free::panic_paths;

/// Builds the program and checks it; then checks the check, on the same program with one float multiplication in it.
///
/// Returns the run-time routines that the fixed-point path does use.
pub(crate) fn check(toolchain: &Toolchain) -> Result<Vec<String>> {
    // On a Cortex-M0 every float operation is a call.
    let build = |features: &[&str]| build(toolchain, &M0, "fixed-probe", None, features);
    let program = build(&[])?;
    let names = symbols(&program)?;
    let floats: Vec<&String> = names.iter().filter(|name| is_soft_float(name)).collect();
    if !floats.is_empty() {
        bail!("the fixed-point path uses float routines: {floats:?}");
    }
    let panics = panic_paths(&program)?;
    if !panics.is_empty() {
        bail!("the fixed-point path can panic: {panics:?}");
    }
    let with_float = build(&["float"])?;
    if !symbols(&with_float)?.iter().any(|name| is_soft_float(name)) {
        bail!("the check is blind: it finds nothing in a program that multiplies two floats");
    }
    Ok(names.into_iter().filter(|name| name.starts_with("__aeabi_") || is_libgcc(name)).collect())
}

/// Names in the symbol table; with unreferenced sections removed by the linker, those of what the program reaches.
fn symbols(program: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let elf: ElfFile32<'_> = ElfFile32::parse(&*bytes).with_context(|| program.display().to_string())?;
    let names: Vec<String> = elf.symbols().filter_map(|s| s.name().ok()).map(str::to_owned).collect();
    // A stripped program, or one in which the compiler has dropped the calls, would pass without a look.
    if !names.iter().any(|name| name.contains("fixed")) {
        bail!("{}: no symbols of the fixed-point path", program.display());
    }
    Ok(names)
}

/// Whether a symbol is float arithmetic: a routine of the Arm run-time ABI (§5.1.2) or of libgcc's naming, or what
/// compiler-builtins and libm implement them with.
fn is_soft_float(name: &str) -> bool {
    if let Some(routine) = name.strip_prefix("__aeabi_") {
        // dadd, fcmpeq, d2iz, f2d …, and i2f, ui2d, l2f, ul2d.
        let from_integer = ["i2", "ui2", "l2", "ul2"]
            .iter()
            .any(|i| routine.strip_prefix(i).is_some_and(|rest| rest.starts_with(['f', 'd'])));
        return from_integer
            || routine.starts_with(['f', 'd'])
            || routine.starts_with("cf")
            || routine.starts_with("cd");
    }
    if is_libgcc(name) {
        // Modes of libgcc: hf, sf, df, xf, tf.
        return ["hf", "sf", "df", "xf", "tf"].iter().any(|mode| name.contains(mode));
    }
    ["compiler_builtins5float", "17compiler_builtins4math", "4libm", "core3num7flt2dec"]
        .iter()
        .any(|m| name.contains(m))
}

/// `__muldi3`, `__clzsi2`, `__udivmoddi4` …: two underscores, lower-case letters, a digit at the end.
fn is_libgcc(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let libgcc =
        name.strip_prefix("__").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    let letters = stem.trim_start_matches('_').bytes().all(|b| b.is_ascii_lowercase());
    // Conversions end in a mode instead of a digit: __fixsfsi, __floatunsidf.
    let conversion = ["__fix", "__float", "__extend", "__trunc"].iter().any(|p| name.starts_with(p));
    libgcc && letters && (stem.len() < name.len() || conversion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_routines_are_told_from_integer_ones() {
        for name in [
            "__aeabi_fadd",
            "__aeabi_dmul",
            "__aeabi_dcmplt",
            "__aeabi_f2iz",
            "__aeabi_d2uiz",
            "__aeabi_i2f",
            "__aeabi_ui2d",
            "__aeabi_l2f",
            "__aeabi_ul2d",
            "__aeabi_cfcmple",
            "__aeabi_cdrcmple",
            "__addsf3",
            "__divdf3",
            "__fixsfsi",
            "__floatunsidf",
            "__floatdidf",
            "__extendsfdf2",
            "__truncdfsf2",
            "__unordsf2",
            "__gtdf2",
            "__multf3",
            "_ZN17compiler_builtins5float3mul17h0123456789abcdefE",
            "_RNvNtNtCs1_17compiler_builtins5float3add",
            "_ZN4libm4math5sqrtf17h0123456789abcdefE",
        ] {
            assert!(is_soft_float(name), "{name}");
        }
        for name in [
            "__aeabi_idiv",
            "__aeabi_uidivmod",
            "__aeabi_uldivmod",
            "__aeabi_ldivmod",
            "__aeabi_lmul",
            "__aeabi_llsl",
            "__aeabi_memcpy",
            "__aeabi_memset4",
            "__clzsi2",
            "__udivmoddi4",
            "__muldi3",
            "__udivti3",
            "__multi3",
            "__ashlti3",
            "__veneer_base",
            "__ssdf",
            "main",
            "DefaultHandler",
            "_ZN11qat_kernels5fixed2pi7pi_step17h0123456789abcdefE",
        ] {
            assert!(!is_soft_float(name), "{name}");
        }
    }
}
