//! The door: run, then an exit status.

use std::process::ExitCode;

use gptpipe::error::ExitStatus;

fn main() -> ExitCode {
    let status = gptpipe::run(std::env::args_os().skip(1).collect());
    if let ExitStatus::Signal(signal) = status {
        gptpipe::interrupt::end_by(signal);
    }
    ExitCode::from(status.code())
}
