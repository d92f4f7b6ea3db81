//! `cargo xtask faults`: trainings that are killed at random moments, each resumed, must end with the same bytes as one
//! that ran through.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::cmd::{qat, root, run as run_command, target_dir};
use crate::libtorch;
use crate::results::{Figure, record};

/// What must not depend on interruptions.
const RESULTS: [&str; 4] = ["fp32.safetensors", "checkpoint.safetensors", "model.piq", "ptq.piq"];
/// Kills in one training at most, before it may end.
const KILLS: usize = 4;
/// Kills of a whole run, if nobody says otherwise.
pub(crate) const MOMENTS: usize = 20;

/// The command line: kills trainings at `moments` moments, and records how many were lost.
pub(crate) fn command(moments: usize, yes: bool) -> Result<()> {
    libtorch::ensure(yes)?;
    let lost = killed_trainings(moments)?;
    let value = lost.to_string();
    let figure = Figure::new("kill9".into(), "lost", value, "").with_goal("0".into());
    record("faults", &format!("cargo xtask faults --moments {moments}"), &[figure])?;
    if lost > 0 {
        bail!("{lost} of {moments} killed trainings ended with other bytes than the one that ran through");
    }
    println!("killed at {moments} moments, resumed, nothing lost");
    Ok(())
}

/// Builds the program as the tests do, and kills its trainings at `moments` moments; returns how many were lost.
pub(crate) fn killed_trainings(moments: usize) -> Result<usize> {
    kill_and_resume(&qat()?, &target_dir()?.join("faults"), moments)
}

/// Kills short trainings of Letter at `moments` random moments in all; returns after how many of them the resumed training
/// failed or ended with other bytes.
fn kill_and_resume(program: &Path, folder: &Path, moments: usize) -> Result<usize> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let whole = folder.join("whole");
    let began = Instant::now();
    run_command(training(program, &whole).stderr(Stdio::null()))?;
    let time = began.elapsed();
    println!("one training takes {:.1} s", time.as_secs_f64());

    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_nanos();
    let mut random = Random(nanoseconds as u64 | 1);
    let (mut done, mut lost) = (0, 0);
    while done < moments {
        let run = folder.join(format!("run{done}"));
        let kills = random.below(KILLS as u64) as usize + 1;
        let kills = kills.min(moments - done);
        let mut survived = 0;
        for _ in 0..kills {
            // Anywhere in a whole training; a resumed one may be over by then, and is then not killed.
            let moment = Duration::from_nanos(random.below(time.as_nanos() as u64));
            survived += usize::from(!kill_after(training(program, &run), moment)?);
        }
        let finished = training(program, &run).status().context("qat")?;
        let same = finished.success() && same_results(&whole, &run)?;
        println!("{} kills{}", kills - survived, if same { "" } else { ": LOST" });
        lost += usize::from(!same);
        done += kills - survived;
        fs::remove_dir_all(&run).with_context(|| run.display().to_string())?;
    }
    Ok(lost)
}

/// A short training with checkpoints every few steps, that goes on where it stands.
fn training(program: &Path, out: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(root())
        .args(["train", "qat-trainer/configs/letter.toml", "--resume", "--out"])
        .arg(out);
    command.args(["--checkpoint-steps", "9", "--set", "train.epochs=2", "--set", "qat.epochs=2"]);
    command.args([
        "--set",
        "train.ema=0.99",
        "--set",
        "train.validation=0.1",
        "--set",
        "train.keep=\"best\"",
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts a command and kills it (SIGKILL) after a time; false if it had ended by itself.
fn kill_after(mut command: Command, time: Duration) -> Result<bool> {
    let mut child = command.spawn().context("qat")?;
    std::thread::sleep(time);
    if let Some(status) = child.try_wait()? {
        if !status.success() {
            bail!("qat failed by itself: {status}");
        }
        return Ok(false);
    }
    child.kill()?;
    child.wait()?;
    Ok(true)
}

fn same_results(a: &Path, b: &Path) -> Result<bool> {
    for name in RESULTS {
        let read = |folder: &Path| fs::read(folder.join(name)).with_context(|| folder.display().to_string());
        if read(a)? != read(b)? {
            println!("{name} differs");
            return Ok(false);
        }
    }
    Ok(true)
}

/// xorshift64 (Marsaglia 2003); the moments need no better.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(n)) >> 64) as u64
    }
}
