//! Emulated boards: QEMU, the plugin that counts instructions, and a working directory for the files that go in and out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use qat_kernels::artifact::Target;

use crate::cmd::{cargo, output, run, target_dir};
use crate::samples::Samples;
use crate::tools::Tool;

/// A board that QEMU models.
#[derive(Debug)]
pub(crate) struct Board {
    /// The core, in names of files and cases.
    pub(crate) core: &'static str,
    /// Name in reports.
    pub(crate) name: &'static str,
    /// What its packed files are called.
    pub(crate) family: Target,
    /// The emulator.
    qemu: &'static str,
    /// Where it comes from.
    pub(crate) tool: Tool,
    /// Its options for the board.
    machine: &'static [&'static str],
    /// Rust's name for the core.
    pub(crate) target: &'static str,
    /// Bytes of flash and RAM in its memory map (`firmware/build-support`).
    pub(crate) memory: [usize; 2],
}

/// Cortex-M0, BBC micro:bit: the smallest.
pub(crate) const M0: Board = Board {
    core: "m0",
    name: "Cortex-M0 (microbit)",
    family: Target::CortexM0,
    qemu: "qemu-system-arm",
    tool: Tool::QemuArm,
    machine: &["microbit"],
    target: "thumbv6m-none-eabi",
    memory: [256 << 10, 16 << 10],
};

/// Cortex-M3, MPS2 with FPGA image AN385.
pub(crate) const M3: Board = Board {
    core: "m3",
    name: "Cortex-M3 (mps2-an385)",
    family: Target::CortexM0,
    qemu: "qemu-system-arm",
    tool: Tool::QemuArm,
    machine: &["mps2-an385"],
    target: "thumbv7m-none-eabi",
    memory: [4 << 20; 2],
};

/// Cortex-M4F, MPS2 with FPGA image AN386.
pub(crate) const M4: Board = Board {
    core: "m4",
    name: "Cortex-M4F (mps2-an386)",
    family: Target::CortexM4,
    qemu: "qemu-system-arm",
    tool: Tool::QemuArm,
    machine: &["mps2-an386"],
    target: "thumbv7em-none-eabihf",
    memory: [4 << 20; 2],
};

/// Cortex-M55, MPS3 with FPGA image AN547.
pub(crate) const M55: Board = Board {
    core: "m55",
    name: "Cortex-M55 (mps3-an547)",
    family: Target::CortexM55,
    qemu: "qemu-system-arm",
    tool: Tool::QemuArm,
    machine: &["mps3-an547"],
    target: "thumbv8m.main-none-eabihf",
    memory: [512 << 10, 4 << 20],
};

/// RV32IMC, QEMU's own machine.
pub(crate) const RV32: Board = Board {
    core: "rv32",
    name: "RV32IMC (virt)",
    family: Target::RiscV32,
    qemu: "qemu-system-riscv32",
    tool: Tool::QemuRiscV,
    machine: &["virt", "-bios", "none"],
    target: "riscv32imc-unknown-none-elf",
    memory: [4 << 20; 2],
};

/// Every board.
pub(crate) const BOARDS: [&Board; 5] = [&M0, &M3, &M4, &M55, &RV32];

impl Board {
    /// The board with this core.
    pub(crate) fn from_core(core: &str) -> Result<&'static Self> {
        let cores = || BOARDS.map(|board| board.core).join(", ");
        let found = BOARDS.into_iter().find(|board| board.core == core);
        found.with_context(|| format!("no board with a core `{core}`; there are: {}", cores()))
    }
}

/// What a program left behind.
pub(crate) struct Outcome {
    /// Instructions of every region, in order.
    pub(crate) counts: Vec<u64>,
    /// The logits of all samples.
    pub(crate) logits: Vec<u8>,
    /// Bytes of stack that an inference needed, from programs that say so.
    pub(crate) stack: Option<u32>,
}

/// What the program and the emulator say on standard error.
const MESSAGES: &str = "messages.txt";
/// How long a program may go without finishing a sample.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `program` on `samples`, on as many emulators as the machine has cores.
pub(crate) fn emulate(board: &Board, program: &Path, samples: &Samples) -> Result<Outcome> {
    let plugin = plugin(board)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Starting an emulator costs a quarter of a second: not worth it for a few samples.
    let parts = samples.split(cores.min(samples.count().div_ceil(16)));
    let folder = target_dir()?.join("emulator").join(std::process::id().to_string());
    let start = |(index, part): (usize, &Samples)| {
        Emulator::start(board, program, &plugin, part, folder.join(index.to_string()))
    };
    // All of them first, so that they run side by side.
    let running = parts.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
    let mut whole = Outcome { counts: Vec::new(), logits: Vec::new(), stack: None };
    for emulator in running {
        let part = emulator.finish().with_context(|| format!("emulated {}", board.name))?;
        whole.counts.extend(part.counts);
        whole.logits.extend(part.logits);
        whole.stack = whole.stack.max(part.stack);
    }
    // After a failure it stays, for whoever looks into it.
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(whole)
}

/// One process; killed if dropped before its end.
struct Emulator {
    child: Child,
    folder: PathBuf,
}

impl Emulator {
    fn start(
        board: &Board,
        program: &Path,
        plugin: &Path,
        samples: &Samples,
        folder: PathBuf,
    ) -> Result<Self> {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("samples.bin"), samples.to_bytes())?;
        let child = Command::new(board.qemu)
            .current_dir(&folder)
            .arg("-M")
            .args(board.machine)
            .args(["-display", "none", "-monitor", "none", "-serial", "none"])
            .args(["-semihosting-config", "enable=on,target=native"])
            .arg("-plugin")
            .arg(format!("file={},out=counts.txt", plugin.display()))
            .arg("-kernel")
            .arg(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join(MESSAGES))?)
            .spawn()
            .context(board.qemu)?;
        Ok(Self { child, folder })
    }

    /// Waits for the end, or for the program to get stuck.
    fn finish(mut self) -> Result<Outcome> {
        let logits = self.folder.join("logits.bin");
        let mut progress = (0, Instant::now());
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            let written = fs::metadata(&logits).map_or(0, |file| file.len());
            if written > progress.0 {
                progress = (written, Instant::now());
            } else if progress.1.elapsed() > PATIENCE {
                bail!("no sample finished in {} s; the program hangs or has faulted", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(20));
        };
        if !status.success() {
            let message = fs::read_to_string(self.folder.join(MESSAGES)).unwrap_or_default();
            bail!("{} ({status}; the program's files are in {})", message.trim(), self.folder.display());
        }
        let counts = self.folder.join("counts.txt");
        let text = fs::read_to_string(&counts).with_context(|| counts.display().to_string())?;
        let stack = fs::read(self.folder.join("stack.bin")).ok();
        let counts = text.lines().map(|line| line.parse().with_context(|| format!("count `{line}`")));
        Ok(Outcome {
            counts: counts.collect::<Result<_>>()?,
            logits: fs::read(&logits).with_context(|| logits.display().to_string())?,
            stack: stack.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes),
        })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Does nothing to a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the plugin for the QEMU that is installed, once a run.
fn plugin(board: &Board) -> Result<PathBuf> {
    static PLUGIN: OnceLock<PathBuf> = OnceLock::new();
    if let Some(built) = PLUGIN.get() {
        return Ok(built.clone());
    }
    let version = output(Command::new(board.qemu).arg("--version"))?;
    let api =
        plugin_api(&version).with_context(|| format!("cannot read a version from `{}`", version.trim()))?;
    let build = &mut cargo();
    run(build
        .args(["build", "-q", "--release", "-p", "insn-plugin"])
        .env("QEMU_PLUGIN_API", api.to_string()))?;
    let library = target_dir()?.join("release/libinsn_plugin.so");
    // QEMU's option syntax separates by commas and doubles those that belong to a name.
    let library = PathBuf::from(library.display().to_string().replace(',', ",,"));
    Ok(PLUGIN.get_or_init(|| library).clone())
}

/// The plugin interface of a QEMU, from the first line of `--version`: see `insn-plugin` for what changed when.
fn plugin_api(version: &str) -> Option<u32> {
    let number = version.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
    let mut parts = number.split('.').map(|part| part.parse::<u32>());
    let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
    match (major, minor) {
        (6.., _) if (major, minor) < (9, 0) => Some(1),
        (9, 0) => Some(2),
        (9.., _) => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_qemu_gets_the_interface_it_accepts() {
        let api = |version: &str| plugin_api(&format!("QEMU emulator version {version}\nCopyright"));
        assert_eq!(api("7.2.22 (Debian 1:7.2+dfsg-7)"), Some(1));
        assert_eq!(api("8.2.2"), Some(1));
        assert_eq!(api("9.0.1"), Some(2));
        assert_eq!(api("9.1.0"), Some(3));
        assert_eq!(api("10.0.2 (Debian 1:10.0.2+ds-2)"), Some(3));
        assert_eq!(api("5.2.0"), None);
        assert_eq!(plugin_api("something else"), None);
    }
}
