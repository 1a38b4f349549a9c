//! Runs the binary as a shell would and judges how it ended.
//!
//! [`Gptpipe`] says what is typed, fed and set; [`Running`] is the process while it lives;
//! [`Outcome`] is what it left behind. A failed check shows the whole scene. Nothing here waits by
//! sleeping: readers run on threads of their own and tell what came, and a watchdog ends what hangs.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::server::Server;

/// What takes longer hangs.
pub(crate) const HANGS: Duration = Duration::from_secs(30);

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_gptpipe");

/// A command line with its surroundings, not started yet.
pub(crate) struct Gptpipe {
    program: OsString,
    args: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    input: Input,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    hangs: Duration,
    home: Arc<Folder>,
}

enum Input {
    Bytes(Vec<u8>),
    Held,
    Other(Stdio),
}

/// The program with an empty environment, a home of its own and empty input.
pub(crate) fn gptpipe() -> Gptpipe {
    Gptpipe {
        program: BINARY.into(),
        args: Vec::new(),
        variables: Vec::new(),
        input: Input::Bytes(Vec::new()),
        stdout: None,
        stderr: None,
        hangs: HANGS,
        home: Arc::new(Folder::new()),
    }
}

/// A shell script; `$GPTPIPE` is the program.
pub(crate) fn shell(script: &str) -> Gptpipe {
    let mut shell = gptpipe();
    shell.program = "/bin/sh".into();
    shell.args(["-c", script]).env("GPTPIPE", BINARY)
}

/// Another program in the same surroundings, with the program under test on its `PATH`.
pub(crate) fn tool(program: &str) -> Gptpipe {
    let mut tool = gptpipe();
    tool.program = program.into();
    let mut path = OsString::from(Path::new(BINARY).parent().unwrap());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    tool.env("PATH", path)
}

impl Gptpipe {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// No request is sent a second time.
    pub(crate) fn once(self) -> Self {
        self.args(["--retries", "0"])
    }

    /// The same text is asked about each time that it comes.
    pub(crate) fn forgetful(self) -> Self {
        self.arg("--no-cache")
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables
            .push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// It hangs only after four times the usual.
    pub(crate) fn patient(mut self) -> Self {
        self.hangs = 4 * HANGS;
        self
    }

    /// Runs in this home, as runs before it may have.
    pub(crate) fn at(mut self, home: &Arc<Folder>) -> Self {
        self.home = Arc::clone(home);
        self
    }

    /// Asks this server, without a key.
    pub(crate) fn ask(self, server: &Server) -> Self {
        self.env("GPTPIPE_BASE_URL", server.url())
    }

    /// What the program reads, to its end.
    pub(crate) fn input(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.input = Input::Bytes(bytes.as_ref().to_vec());
        self
    }

    /// Input comes from [`Running::feed`] and ends with [`Running::end_input`].
    pub(crate) fn hold_input(mut self) -> Self {
        self.input = Input::Held;
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.input = Input::Other(stdin.into());
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// The text of the configuration file.
    pub(crate) fn config(self, text: &str) -> Self {
        self.home.write("config/gptpipe/config.toml", text);
        self
    }

    /// The home folder, which lives as long as this value and what it runs.
    pub(crate) fn home(&self) -> &Folder {
        &self.home
    }

    /// What is typed after the program's name, as a shell takes it.
    pub(crate) fn typed(&self) -> String {
        let word = |arg: &OsString| {
            let text = arg.display().to_string();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
            if !text.is_empty() && text.chars().all(is_plain) {
                text
            } else {
                format!("'{text}'")
            }
        };
        self.args.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(self) -> Outcome {
        self.start().finish()
    }

    /// Starts it; output is gathered as it comes.
    pub(crate) fn start(self) -> Running {
        let mut running = self.start_unread();
        running.read_stdout();
        running
    }

    /// Starts it; nobody reads standard output until [`Running::read_stdout`].
    pub(crate) fn start_unread(self) -> Running {
        let scene = self.scene();
        let mut command = if ignores_signals() {
            // What runs these tests in the background may have had them ignore SIGINT.
            let mut command = Command::new("env");
            command
                .arg("--default-signal=HUP,INT,TERM")
                .arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command
            .args(&self.args)
            .env_clear()
            .current_dir(&self.home.path);
        for (variable, folder) in [
            ("HOME", ""),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_DATA_HOME", "data"),
            // Where the user's own bus is looked for, and with it the user's own keyring.
            ("XDG_RUNTIME_DIR", "run"),
        ] {
            command.env(variable, self.home.path.join(folder));
        }
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let (stdin, bytes) = match self.input {
            Input::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
            Input::Held => (Stdio::piped(), None),
            Input::Other(stdin) => (stdin, None),
        };
        command.stdin(stdin);
        command.stdout(self.stdout.unwrap_or_else(Stdio::piped));
        command.stderr(self.stderr.unwrap_or_else(Stdio::piped));
        // A job of its own, as an interactive shell makes it.
        command.process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{} has to be installed: {error}", self.program.display())
        });
        drop(command);
        let pid = Pid::from_child(&child);
        let mut stdin = child.stdin.take();
        let feeder = bytes.map(|bytes| {
            let mut stdin = stdin.take().unwrap();
            // The program may well end before it has read everything.
            thread::spawn(move || drop(stdin.write_all(&bytes)))
        });
        let stdout = child.stdout.take();
        let (gathered, errors) = (Gathered::new("stdout"), Gathered::new("stderr"));
        let mut readers = Vec::new();
        readers.extend(child.stderr.take().map(|stream| errors.read(stream)));
        Running {
            scene,
            child,
            pid,
            stdin,
            stdout,
            gathered,
            errors,
            feeder,
            readers,
            watchdog: watch(pid, self.hangs),
            home: self.home,
        }
    }

    fn scene(&self) -> String {
        let mut scene = format!("$ {}", self.program.display());
        for arg in &self.args {
            let _ = write!(scene, " '{}'", arg.display());
        }
        for (name, value) in &self.variables {
            let _ = write!(scene, "\n  {}={}", name.display(), value.display());
        }
        if let Input::Bytes(bytes) = &self.input {
            let _ = write!(scene, "\n--- stdin\n{}", excerpt(bytes));
        }
        scene
    }
}

/// Whether this process ignores a signal that the program is to be ended by (proc(5), `SigIgn`).
fn ignores_signals() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    [Signal::HUP, Signal::INT, Signal::TERM]
        .iter()
        .any(|signal| mask & 1 << (signal.as_raw() - 1) != 0)
}

/// Kills a process that hangs; ends when the sender is dropped.
fn watch(pid: Pid, hangs: Duration) -> Sender<()> {
    let (sender, receiver) = channel::<()>();
    thread::spawn(move || {
        if receiver.recv_timeout(hangs) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    sender
}

/// The program while it lives.
pub(crate) struct Running {
    scene: String,
    child: Child,
    pid: Pid,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    gathered: Gathered,
    errors: Gathered,
    feeder: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    watchdog: Sender<()>,
    home: Arc<Folder>,
}

impl Running {
    /// Writes a piece of input; blocks while the pipe is full.
    #[track_caller]
    pub(crate) fn feed(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdin
            .as_mut()
            .unwrap()
            .write_all(bytes.as_ref())
            .unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// The writing end of its input, for a thread of the test's own.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    /// The reading end of its output; only after [`Gptpipe::start_unread`].
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.stdout.take().unwrap()
    }

    /// Begins to read standard output.
    pub(crate) fn read_stdout(&mut self) {
        let stream = self.stdout.take();
        self.readers
            .extend(stream.map(|stream| self.gathered.read(stream)));
    }

    /// Waits until standard output is as it should be, and gives what came.
    #[track_caller]
    pub(crate) fn wait_stdout(&self, is_there: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.gathered.wait(is_there)
    }

    /// Waits until standard error is as it should be.
    #[track_caller]
    pub(crate) fn wait_stderr(&self, is_there: impl Fn(&str) -> bool) {
        self.errors
            .wait(|bytes| is_there(&String::from_utf8_lossy(bytes)));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// As [`Running::signal`]; it may be over already.
    pub(crate) fn try_signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until that signal has ended it; gives all that it wrote, and whether its memory was written to a core
    /// file.
    #[track_caller]
    pub(crate) fn ended(mut self, signal: Signal) -> (Vec<u8>, bool) {
        let status = self.child.wait().unwrap();
        drop(self.watchdog);
        for reader in self.readers {
            reader.join().unwrap();
        }
        assert_eq!(status.signal(), Some(signal.as_raw()), "{}", self.scene);
        let output = [self.gathered.now(), self.errors.now()].concat();
        (output, status.core_dumped())
    }

    /// All that it wrote until its end, whichever that is, and what the end was: a status, or a signal below zero.
    pub(crate) fn over(mut self) -> (Vec<u8>, i32) {
        self.end_input();
        let status = self.child.wait().unwrap();
        drop(self.watchdog);
        for reader in self.readers {
            reader.join().unwrap();
        }
        let output = [self.gathered.now(), self.errors.now()].concat();
        let end = status.code().or(status.signal().map(|signal| -signal));
        (output, end.unwrap_or_default())
    }

    /// The process that a shell runs in the foreground, once there is one.
    pub(crate) fn child(&self) -> Pid {
        let pid = self.pid.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        Pid::from_raw(children.trim().parse().unwrap()).unwrap()
    }

    /// The most memory that it has held so far, in KiB (proc(5), `VmHWM`).
    pub(crate) fn peak_memory(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Kills it at once; gives what it had written, and whether it was still alive.
    pub(crate) fn kill(mut self) -> (Vec<u8>, bool) {
        self.try_signal(Signal::KILL);
        let status = self.child.wait().unwrap();
        drop(self.watchdog);
        for reader in self.readers {
            reader.join().unwrap();
        }
        (self.gathered.now(), status.signal() == Some(9))
    }

    /// Ends its input and waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        self.end_input();
        self.finish_with_input_held()
    }

    /// Waits for its end, which has to come though its input has not ended.
    #[track_caller]
    pub(crate) fn finish_with_input_held(mut self) -> Outcome {
        let stdin = self.stdin.take();
        let status = self.child.wait().unwrap();
        drop(stdin);
        drop(self.watchdog);
        for reader in self.readers {
            reader.join().unwrap();
        }
        if let Some(feeder) = self.feeder {
            feeder.join().unwrap();
        }
        let outcome = Outcome {
            scene: self.scene,
            stdout: self.gathered.now(),
            stderr: String::from_utf8_lossy(&self.errors.now()).into_owned(),
            code: status.code(),
            signal: status.signal(),
            home: self.home,
        };
        outcome.must(outcome.signal != Some(9), "it must not hang");
        outcome.must(!outcome.stderr.contains("panicked"), "it must not panic");
        outcome
    }
}

/// A stream's bytes as far as they have come.
#[derive(Clone)]
struct Gathered {
    name: &'static str,
    state: Arc<(Mutex<Bytes>, Condvar)>,
}

#[derive(Default)]
struct Bytes {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Gathered {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            state: Arc::default(),
        }
    }

    fn read(&self, mut stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                // A terminal that nobody holds any more gives an error in place of an end.
                let length = stream.read(&mut buffer).unwrap_or(0);
                let mut bytes = state.0.lock().unwrap();
                bytes.bytes.extend_from_slice(&buffer[..length]);
                bytes.is_over = length == 0;
                state.1.notify_all();
                if length == 0 {
                    return;
                }
            }
        })
    }

    #[track_caller]
    fn wait(&self, is_there: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let end = Instant::now() + HANGS;
        let mut bytes = self.state.0.lock().unwrap();
        loop {
            if is_there(&bytes.bytes) {
                return bytes.bytes.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            if bytes.is_over || left.is_zero() {
                let came = excerpt(&bytes.bytes);
                // Its reader needs the lock after this test has failed.
                drop(bytes);
                panic!("{} never became what was waited for:\n{came}", self.name);
            }
            bytes = self.state.1.wait_timeout(bytes, left).unwrap().0;
        }
    }

    fn now(&self) -> Vec<u8> {
        self.state.0.lock().unwrap().bytes.clone()
    }
}

/// Reads a stream on a thread of its own, for tests that hold the other end themselves.
pub(crate) struct Reader(Gathered, JoinHandle<()>);

impl Reader {
    pub(crate) fn new(stream: impl Read + Send + 'static) -> Self {
        let gathered = Gathered::new("the stream");
        let thread = gathered.read(stream);
        Self(gathered, thread)
    }

    #[track_caller]
    pub(crate) fn wait(&self, is_there: impl Fn(&str) -> bool) -> String {
        let bytes = self
            .0
            .wait(|bytes| is_there(&String::from_utf8_lossy(bytes)));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything up to the stream's end.
    pub(crate) fn finish(self) -> String {
        self.1.join().unwrap();
        String::from_utf8_lossy(&self.0.now()).into_owned()
    }
}

/// What a run left behind.
pub(crate) struct Outcome {
    scene: String,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    home: Arc<Folder>,
}

impl Outcome {
    /// The home folder of the run.
    pub(crate) fn home(&self) -> &Folder {
        &self.home
    }

    /// Fails with the whole scene.
    #[track_caller]
    pub(crate) fn must(&self, holds: bool, what: &str) -> &Self {
        assert!(
            holds,
            "{what}\n{}\n--- stdout, {} bytes\n{}\n--- stderr\n{}\n--- exit status {:?}, signal {:?}",
            self.scene,
            self.stdout.len(),
            excerpt(&self.stdout),
            excerpt(self.stderr.as_bytes()),
            self.code,
            self.signal,
        );
        self
    }

    #[track_caller]
    pub(crate) fn status(&self, code: i32) -> &Self {
        self.must(
            self.code == Some(code),
            &format!("the exit status must be {code}"),
        )
    }

    #[track_caller]
    pub(crate) fn killed_by(&self, signal: Signal) -> &Self {
        let is_it = self.signal == Some(signal.as_raw());
        self.must(is_it, &format!("it must die of signal {}", signal.as_raw()))
    }

    #[track_caller]
    pub(crate) fn stdout(&self, expected: impl AsRef<[u8]>) -> &Self {
        let expected = expected.as_ref();
        if self.stdout != expected {
            let same = self
                .stdout
                .iter()
                .zip(expected)
                .take_while(|(a, b)| a == b)
                .count();
            self.must(
                false,
                &format!(
                    "stdout differs at byte {same}; it must be\n{}",
                    excerpt(expected)
                ),
            );
        }
        self
    }

    #[track_caller]
    pub(crate) fn stderr(&self, expected: &str) -> &Self {
        self.must(
            self.stderr == expected,
            &format!("stderr must be\n{expected}"),
        )
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &str) -> &Self {
        self.must(
            self.stderr.contains(words),
            &format!("stderr must say: {words}"),
        )
    }

    #[track_caller]
    pub(crate) fn never_says(&self, words: &str) -> &Self {
        self.must(
            !self.stderr.contains(words),
            &format!("stderr must not say: {words}"),
        )
    }

    /// Standard output is a beginning of `whole` that goes at least up to `part`.
    #[track_caller]
    pub(crate) fn stdout_between(&self, part: &str, whole: &str) -> &Self {
        let is_right =
            self.stdout.starts_with(part.as_bytes()) && whole.as_bytes().starts_with(&self.stdout);
        self.must(
            is_right,
            &format!("stdout must be a beginning of {whole:?}, at least {part:?}"),
        )
    }

    /// Everything went well, and there was nothing to say about it.
    #[track_caller]
    pub(crate) fn ok(&self) -> &Self {
        self.status(0).stderr("")
    }

    /// One message, and under it at most one hint.
    #[track_caller]
    pub(crate) fn one_message(&self) -> &Self {
        let lines: Vec<&str> = self.stderr.lines().collect();
        let is_one = match lines[..] {
            [message] => message.starts_with("gptpipe: "),
            [message, hint] => message.starts_with("gptpipe: ") && hint.starts_with("hint: "),
            _ => false,
        };
        self.must(
            is_one && self.stderr.ends_with('\n'),
            "stderr must be one message and at most a hint",
        )
    }
}

fn excerpt(bytes: &[u8]) -> String {
    const HALF: usize = 1500;
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .escape_debug()
            .to_string()
            .replace("\\n", "\n")
    };
    if bytes.len() <= 2 * HALF {
        return text(bytes);
    }
    let (begin, end) = (&bytes[..HALF], &bytes[bytes.len() - HALF..]);
    format!(
        "{}\n[... {} bytes ...]\n{}",
        text(begin),
        bytes.len() - 2 * HALF,
        text(end)
    )
}

/// A folder that is gone with the test.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    /// A home for several runs.
    pub(crate) fn home() -> Arc<Self> {
        Arc::new(Self::new())
    }

    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    /// Writes a file and gives its path.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// So many lines, each its own number from 0.
pub(crate) fn lines(count: usize) -> String {
    (0..count).fold(String::new(), |text, number| text + &format!("{number}\n"))
}

/// Random numbers (xorshift64*, Vigna 2016); the seed is printed, and `GPTPIPE_SEED` sets it.
pub(crate) struct Random(u64);

impl Random {
    #[allow(clippy::print_stderr, reason = "a failure has to tell its seed")]
    pub(crate) fn new() -> Self {
        let seed = std::env::var("GPTPIPE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap();
            u64::from(now.subsec_nanos()) << 20 ^ now.as_secs()
        });
        eprintln!("GPTPIPE_SEED={seed}");
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}
