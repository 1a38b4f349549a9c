//! Signals from outside.
//!
//! The first one ends the run in order: requests in flight are dropped, what
//! was whole and in its turn is written. The process then ends by that very
//! signal, so that a shell's loop, `xargs` and `timeout` see what happened.

/// The numbers that are the same on every Unix.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [1, 2, 15];

/// Waits for SIGHUP, SIGINT or SIGTERM and gives its number. A second SIGINT
/// ends the process at once.
#[cfg(unix)]
pub async fn signal() -> i32 {
    use futures::StreamExt as _;
    use futures::stream::FuturesUnordered;
    use tokio::signal::unix::{SignalKind, signal};

    let ignored = ignored();
    let mut waiting: FuturesUnordered<_> = SIGNALS
        .into_iter()
        // What was ignored from the start (nohup, a job in the background) stays so.
        .filter(|number| ignored & (1 << (number - 1)) == 0)
        .filter_map(|number| Some((number, signal(SignalKind::from_raw(number)).ok()?)))
        .map(|(number, mut signal)| async move {
            signal.recv().await;
            number
        })
        .collect();
    match waiting.next().await {
        Some(number) => number,
        None => std::future::pending().await,
    }
}

/// Waits for what Windows has in their place, and gives the number of the signal that means the
/// same: Ctrl-C and Ctrl-Break, the closing of the console's window, the end of the session.
#[cfg(windows)]
pub async fn signal() -> i32 {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};

    let (Ok(mut c), Ok(mut pause), Ok(mut close), Ok(mut shutdown)) =
        (ctrl_c(), ctrl_break(), ctrl_close(), ctrl_shutdown())
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        Some(()) = c.recv() => 2,
        Some(()) = pause.recv() => 2,
        Some(()) = close.recv() => 1,
        Some(()) = shutdown.recv() => 15,
        else => std::future::pending().await,
    }
}

/// The signals that were ignored when the process began, as a bit set
/// (proc(5), `SigIgn`). Where there is no `/proc`, none.
#[cfg(unix)]
fn ignored() -> u64 {
    use std::io::Read as _;

    // Of unknown size, it would be read in ten steps.
    let mut status = [0; 8192];
    let length = std::fs::File::open("/proc/self/status")
        .and_then(|mut file| file.read(&mut status))
        .unwrap_or(0);
    String::from_utf8_lossy(&status[..length])
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Ends the process by a signal; comes back only where that is not possible. Windows has no such
/// end, so that the exit status says it.
pub fn end_by(signal: i32) {
    #[cfg(unix)]
    {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    #[cfg(not(unix))]
    {
        let _ = signal;
    }
}
