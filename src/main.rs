//! `iotflow`: see `iotflow --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    iotflow::cli::run(std::env::args_os())
}
