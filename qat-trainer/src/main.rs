//! The command `qat`; see `qat --help`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
