//! Hosts of a test's own: a real sshd behind a port of this machine, each with a home and an environment of its own.
//!
//! The test listens and gives every connection an `sshd -i`, as inetd does: no port is guessed, and nothing is left
//! running.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{BINARY, Folder};

/// Where Debian puts it; it has to be called by its whole name.
const SSHD: &str = "/usr/sbin/sshd";

/// Two hosts, by the names `one` and `two`, and a user who may log in.
pub(crate) struct Hosts {
    /// What `ssh -F` reads.
    pub(crate) config: PathBuf,
    pub(crate) hosts: [Host; 2],
}

/// A host that can be logged in to.
pub(crate) struct Host {
    /// The home of whoever logs in.
    pub(crate) home: Arc<Folder>,
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Hosts {
    pub(crate) fn start() -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "sshd is needed, which Debian has as openssh-server"
        );
        // Where root's sshd locks itself in; a service of the system would have made it.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let hosts = ["one", "two"].map(Host::start);
        let mut config = String::new();
        for (name, host) in ["one", "two"].iter().zip(&hosts) {
            let port = host.address.port();
            let keys = hosts[0].home.path.display();
            let _ = write!(
                config,
                "Host {name}\n HostName 127.0.0.1\n HostKeyAlias {name}\n Port {port}\n IdentityFile {keys}/user\n \
                 IdentitiesOnly yes\n UserKnownHostsFile {keys}/known\n GlobalKnownHostsFile /dev/null\n \
                 StrictHostKeyChecking accept-new\n BatchMode yes\n LogLevel ERROR\n"
            );
        }
        // One user for both.
        key(&hosts[0].home.path.join("user"));
        let key = fs::read(hosts[0].home.path.join("user.pub")).unwrap();
        for host in &hosts {
            host.home.write("authorized", &key);
        }
        Self {
            config: hosts[0].home.write("config-of-ssh", config),
            hosts,
        }
    }
}

/// Makes a key.
fn key(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .expect("ssh-keygen is needed, which Debian has as openssh-client");
    assert!(made.success());
}

impl Host {
    fn start(name: &str) -> Self {
        let home = Folder::home();
        fs::set_permissions(&home.path, fs::Permissions::from_mode(0o700)).unwrap();
        key(&home.path.join("host"));
        let path = format!(
            "{}:{}",
            Path::new(BINARY).parent().unwrap().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let folder = home.path.display();
        let config = format!(
            "HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n\
             SetEnv HOME={folder} XDG_CONFIG_HOME={folder}/config XDG_CACHE_HOME={folder}/cache \
             XDG_STATE_HOME={folder}/state XDG_RUNTIME_DIR={folder}/run HOST={name} PATH={path}\n"
        );
        let config = home.write("config-of-sshd", config);
        let log = home.path.join("log-of-sshd");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let acceptor = thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || accept(&listener, &config, &log, &is_over)
        });
        Self {
            home,
            address,
            is_over,
            acceptor: Some(acceptor),
        }
    }
}

fn accept(listener: &TcpListener, config: &Path, log: &Path, is_over: &AtomicBool) {
    let mut children = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        let output: OwnedFd = stream.try_clone().unwrap().into();
        let child = Command::new(SSHD)
            .arg("-i")
            .arg("-f")
            .arg(config)
            .arg("-E")
            .arg(log)
            .stdin(Stdio::from(OwnedFd::from(stream)))
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        children.push(child);
    }
    for mut child in children {
        // It ends when its client has left.
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        }
        let _ = child.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
