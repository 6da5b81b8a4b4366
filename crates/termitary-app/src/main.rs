//! The `termitary` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    termitary_app::cli::main()
}
