//! A D-Bus session bus of a test's own, and gnome-keyring on it: the system's keyring without a desktop.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Folder, Gptpipe, gptpipe};

/// A session bus that nothing starts on by itself, and maybe a keyring on it.
pub(crate) struct Bus {
    pub(crate) home: Arc<Folder>,
    daemons: Vec<Child>,
}

impl Bus {
    /// A bus without a keyring.
    pub(crate) fn empty() -> Self {
        let home = Folder::home();
        let socket = home.path.join("bus");
        let config = home.write(
            "bus.conf",
            format!(
                "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
                 <policy context='default'><allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/>\
                 </policy></busconfig>",
                socket.display()
            ),
        );
        let mut command = Command::new("dbus-daemon");
        command
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped());
        let mut daemon = spawn(command, "dbus-daemon");
        // Its address is written once it can be connected to.
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("unix:"), "dbus-daemon said: {line}");
        Self {
            home,
            daemons: vec![daemon],
        }
    }

    /// A bus with a keyring that is unlocked.
    pub(crate) fn with_keyring() -> Self {
        let mut bus = Self::empty();
        let mut command = bus.command("gnome-keyring-daemon");
        command
            .args(["--foreground", "--unlock", "--components=secrets"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut daemon = spawn(command, "gnome-keyring-daemon");
        daemon
            .stdin
            .take()
            .unwrap()
            .write_all(b"test password")
            .unwrap();
        bus.daemons.push(daemon);
        let end = Instant::now() + Duration::from_secs(20);
        while !bus
            .call(
                "org.freedesktop.DBus",
                "/",
                "org.freedesktop.DBus.NameHasOwner",
                "string:org.freedesktop.secrets",
            )
            .contains("true")
        {
            assert!(Instant::now() < end, "gnome-keyring-daemon did not come up");
            thread::sleep(Duration::from_millis(20));
        }
        bus
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.home.path.join("bus").display())
    }

    /// A program on this bus.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", &self.home.path)
            .env("XDG_DATA_HOME", self.home.path.join("keyring-data"))
            .env("XDG_RUNTIME_DIR", &self.home.path)
            .env("DBUS_SESSION_BUS_ADDRESS", self.address())
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY");
        command
    }

    pub(crate) fn call(&self, service: &str, path: &str, method: &str, argument: &str) -> String {
        let mut command = self.command("dbus-send");
        command.args(["--session", "--print-reply", "--reply-timeout=10000"]);
        command.args([&format!("--dest={service}"), path, method, argument]);
        let output = output(command, "dbus-send");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn lock(&self) {
        let reply = self.call(
            "org.freedesktop.secrets",
            "/org/freedesktop/secrets",
            "org.freedesktop.Secret.Service.Lock",
            "array:objpath:/org/freedesktop/secrets/collection/login",
        );
        assert!(reply.contains("login"), "{reply}");
    }

    /// What another program finds under that name.
    pub(crate) fn lookup(&self, user: &str) -> String {
        let mut command = self.command("secret-tool");
        command.args(["lookup", "service", "gptpipe", "username", user]);
        String::from_utf8(output(command, "secret-tool").stdout).unwrap()
    }

    /// What another program puts there.
    pub(crate) fn store(&self, user: &str, extra: [&str; 2], secret: &str) {
        let mut command = self.command("secret-tool");
        command
            .args(["store", "--label=test", "service", "gptpipe"])
            .args(["username", user])
            .args(extra)
            .stdin(Stdio::piped());
        let mut child = spawn(command, "secret-tool");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(secret.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// How many entries there are under that name.
    pub(crate) fn count(&self, user: &str) -> usize {
        let mut command = self.command("secret-tool");
        command.args(["search", "--all", "service", "gptpipe", "username", user]);
        let output = output(command, "secret-tool");
        String::from_utf8_lossy(&output.stdout)
            .matches("secret = ")
            .count()
    }

    /// The program on this bus.
    pub(crate) fn gptpipe(&self) -> Gptpipe {
        gptpipe()
            .at(&self.home)
            .env("DBUS_SESSION_BUS_ADDRESS", self.address())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn spawn(mut command: Command, package: &str) -> Child {
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{package} has to be installed for this test: {error}"))
}

fn output(mut command: Command, package: &str) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{package} has to be installed for this test: {error}"))
}
