//! One run of a program: how long it took and how much memory it had at most.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wait4::Wait4 as _;

/// Bytes of a mebibyte.
pub(crate) const MIB: f64 = 1_048_576.0;

/// How a run went.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) wall: Duration,
    /// Time on a processor, of which two cores give twice as much.
    pub(crate) cpu: Duration,
    /// Resident memory at its most, in MiB.
    pub(crate) peak: f64,
    pub(crate) output: Vec<u8>,
}

/// Runs a program to its end with a file as standard input.
///
/// The input is a file and not a pipe, so that no other process has a part in
/// the time.
pub(crate) fn run(command: &mut Command, input: &Path) -> Run {
    let input = File::open(input).expect("the input");
    let began = Instant::now();
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", name(command)));
    let mut output = Vec::new();
    child
        .stdout
        .take()
        .expect("its stdout")
        .read_to_end(&mut output)
        .expect("its output");
    Run {
        output,
        ..finish(child, began, command)
    }
}

/// Waits for the end of a program that was started at `began`.
pub(crate) fn finish(child: Child, began: Instant, command: &Command) -> Run {
    let used = child.wait4().expect("its end");
    let wall = began.elapsed();
    assert!(
        used.status.success(),
        "{} failed: {}",
        name(command),
        used.status
    );
    #[expect(
        clippy::cast_precision_loss,
        reason = "no machine has memory that f64 cannot count"
    )]
    let peak = used.rusage.maxrss as f64 / MIB;
    Run {
        wall,
        cpu: used.rusage.utime + used.rusage.stime,
        peak,
        output: Vec::new(),
    }
}

/// Writes a file anew.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .expect("a file of the measurement");
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
