//! A QEMU TCG plugin that counts the instructions executed between two marker instructions.
//!
//! | core | region begins after | region ends before |
//! |---|---|---|
//! | Arm, Thumb | `mov r10, r10` | `mov r11, r11` |
//! | RISC-V | `slti x0, x0, 1` | `slti x0, x0, 2` |
//!
//! Usage: `qemu-system-arm … -plugin file=libinsn_plugin.so,out=counts.txt`. Each region adds one decimal line to
//! `out`, in the order of execution. Regions do not nest, and no exception may be taken inside one: under that
//! condition the count is exact and the same on every run and every host. A conditional instruction that is skipped
//! inside an IT block counts as one, as it does in hardware. These are instructions, not cycles.
//!
//! Counting is by translated block: a block adds its length when it is entered, and a marker subtracts what of its own
//! block has not run yet. This costs one call for each block and needs only functions whose meaning has been the
//! same since QEMU 6.0. Two things did change: 9.0 refuses plugins that declare a version below 2, and version 3 (9.1)
//! gave `qemu_plugin_insn_data` a new signature. `QEMU_PLUGIN_API` in the environment of the build says which version
//! is meant (default 1, for QEMU 6.0 to 8.2).
//!
//! `unsafe`: the plugin interface is C, and there is no other way in. All of it is in this file.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write as _;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const API: c_int = match option_env!("QEMU_PLUGIN_API") {
    Some(text) => single_digit(text),
    None => 1,
};

const fn single_digit(text: &str) -> c_int {
    let bytes = text.as_bytes();
    assert!(bytes.len() == 1 && bytes[0].is_ascii_digit(), "QEMU_PLUGIN_API must be one digit");
    (bytes[0] - b'0') as c_int
}

/// The plugin interface this library was built for; QEMU reads it first.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the name is QEMU's")]
pub static qemu_plugin_version: c_int = API;

/// A block of translated instructions, owned by QEMU.
#[repr(C)]
struct Block {
    _opaque: [u8; 0],
}

/// One instruction of a block, owned by QEMU.
#[repr(C)]
struct Insn {
    _opaque: [u8; 0],
}

type OnTranslate = extern "C" fn(id: u64, block: *mut Block);
type OnExecute = extern "C" fn(vcpu: c_uint, data: *mut c_void);

/// The callback reads and writes no guest register.
const NO_REGS: c_int = 0;

#[allow(clashing_extern_declarations, reason = "one name, two signatures: see the notes on versions above")]
unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: OnTranslate);
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        b: *mut Block,
        callback: OnExecute,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        i: *mut Insn,
        callback: OnExecute,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Insn;
    fn qemu_plugin_insn_size(insn: *const Insn) -> usize;
    #[link_name = "qemu_plugin_insn_data"]
    fn insn_data_v1(insn: *const Insn) -> *const u8;
    #[link_name = "qemu_plugin_insn_data"]
    fn insn_data_v3(insn: *const Insn, dest: *mut u8, len: usize) -> usize;
}

/// Instructions of all blocks entered so far.
static ENTERED: AtomicU64 = AtomicU64::new(0);
/// Length of the block entered last.
static CURRENT: AtomicU64 = AtomicU64::new(0);
/// Instructions executed when the open region began; `NONE` between regions.
static BEGAN: AtomicU64 = AtomicU64::new(NONE);
const NONE: u64 = u64::MAX;
static OUT: OnceLock<File> = OnceLock::new();

extern "C" fn on_block(_vcpu: c_uint, len: *mut c_void) {
    // Loads and stores instead of an atomic addition: the boards have one core, and this runs for every block.
    let len = len.addr() as u64;
    CURRENT.store(len, Relaxed);
    ENTERED.store(ENTERED.load(Relaxed) + len, Relaxed);
}

/// Instructions executed before the instruction at `index` of the current block.
fn executed_before(index: *mut c_void) -> u64 {
    ENTERED.load(Relaxed) - CURRENT.load(Relaxed) + index.addr() as u64
}

extern "C" fn on_begin(_vcpu: c_uint, index: *mut c_void) {
    BEGAN.store(executed_before(index) + 1, Relaxed);
}

extern "C" fn on_end(_vcpu: c_uint, index: *mut c_void) {
    let end = executed_before(index);
    let written = OUT.get().map(|mut out| match BEGAN.swap(NONE, Relaxed) {
        // Not a number, so that whoever reads the file stops here.
        NONE => writeln!(out, "end without beginning"),
        began => writeln!(out, "{}", end - began),
    });
    // Half a list of counts would be taken for a whole one.
    if !matches!(written, Some(Ok(()))) {
        eprintln!("insn-plugin: cannot write the counts");
        std::process::abort();
    }
}

/// The two markers of an architecture, as they lie in memory.
struct Markers {
    begin: &'static [u8],
    end: &'static [u8],
}

const THUMB: Markers = Markers { begin: &0x46d2_u16.to_le_bytes(), end: &0x46db_u16.to_le_bytes() };
const RISC_V: Markers =
    Markers { begin: &0x0010_2013_u32.to_le_bytes(), end: &0x0020_2013_u32.to_le_bytes() };

/// Those of the emulated core; set before the first block is translated.
static MARKERS: OnceLock<&Markers> = OnceLock::new();

impl Markers {
    /// By QEMU's name for the architecture.
    fn of(target: &str) -> Option<&'static Self> {
        match target {
            "arm" => Some(&THUMB),
            "riscv32" | "riscv64" => Some(&RISC_V),
            _ => None,
        }
    }

    /// Which callback an instruction asks for, if it is a marker.
    fn callback(&self, insn: *const Insn) -> Option<OnExecute> {
        let mut code = [0; MARKER_MAX];
        // SAFETY: `insn` comes from `qemu_plugin_tb_get_insn` and lives as long as the translation callback that we are
        // in. Version 3 and later fill at most `code.len()` bytes; before it, the pointer leads to as many bytes as the
        // size says. `API` is what QEMU checked against its own version when it loaded us.
        let code = unsafe {
            let code = code.get_mut(..qemu_plugin_insn_size(insn).min(MARKER_MAX))?;
            if API >= 3 {
                if insn_data_v3(insn, code.as_mut_ptr(), code.len()) != code.len() {
                    return None;
                }
            } else {
                let data = insn_data_v1(insn);
                if data.is_null() {
                    return None;
                }
                ptr::copy_nonoverlapping(data, code.as_mut_ptr(), code.len());
            }
            code
        };
        // An instruction at the end of a page comes with bytes of the next one, at which QEMU has looked to see whether it fits.
        // No longer instruction begins with the bytes of a marker.
        match code {
            _ if code.starts_with(self.begin) => Some(on_begin),
            _ if code.starts_with(self.end) => Some(on_end),
            _ => None,
        }
    }
}

/// Bytes of the longest marker.
const MARKER_MAX: usize = 4;

extern "C" fn on_translate(_id: u64, block: *mut Block) {
    let Some(markers) = MARKERS.get() else { return };
    // SAFETY: QEMU hands out a valid block for the duration of this call, and indices below its length give valid
    // instructions. The data pointers carry numbers and are never followed; the callbacks are `'static`.
    unsafe {
        let len = qemu_plugin_tb_n_insns(block);
        qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, NO_REGS, ptr::without_provenance_mut(len));
        for index in 0..len {
            let insn = qemu_plugin_tb_get_insn(block, index);
            if let Some(callback) = markers.callback(insn) {
                let index = ptr::without_provenance_mut(index);
                qemu_plugin_register_vcpu_insn_exec_cb(insn, callback, NO_REGS, index);
            }
        }
    }
}

/// The beginning of what QEMU says about itself; the rest is not read.
#[repr(C)]
pub struct Info {
    /// The emulated architecture, a C string.
    target_name: *const c_char,
}

/// Entry point: QEMU calls it once, with the arguments of `-plugin` as `name=value`.
///
/// # Safety
/// `info` must point to QEMU's description of itself, `argv` to `argc` C strings. QEMU keeps to this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller promises a valid description, whose first field is the name.
    let target = unsafe { CStr::from_ptr((*info).target_name) }.to_string_lossy();
    let Some(markers) = Markers::of(&target) else {
        eprintln!("insn-plugin: no markers for `{target}`");
        return 1;
    };
    let _ = MARKERS.set(markers);
    let count = usize::try_from(argc).unwrap_or(0);
    let path = (0..count).find_map(|i| {
        // SAFETY: `i < argc`, and the caller promises that many C strings.
        let argument = unsafe { CStr::from_ptr(*argv.add(i)) };
        argument.to_str().ok()?.strip_prefix("out=")
    });
    let Some(path) = path else {
        eprintln!("insn-plugin: argument out=FILE is missing");
        return 1;
    };
    match File::create(path) {
        Ok(file) => drop(OUT.set(file)),
        Err(error) => {
            eprintln!("insn-plugin: {path}: {error}");
            return 1;
        }
    }
    // SAFETY: `id` is the one QEMU gave us, and `on_translate` has the signature it expects.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate) };
    0
}
