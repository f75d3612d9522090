//! A terminal of the test's own: a program runs in it under a shell, keys go in, the screen comes out.

use std::fmt::Debug;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

use crate::harness::{PATIENCE, STREAMWARD, Server};

/// What the shell does with its arguments: the program itself tells nobody how it ended.
const SCRIPT: &str = "\"$@\"; echo \"exit=$?.\"";

/// A program in a terminal; killed when dropped.
pub(crate) struct Tty {
    shell: Child,
    /// The far end of the terminal.
    far: Receiver,
    /// The near end, held open so that its state can be read after the program.
    near: OwnedFd,
    parser: vt100::Parser,
}

impl Debug for Tty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.screen())
    }
}

impl Tty {
    /// Runs `streamward` with these arguments against the server in a terminal of this size.
    pub(crate) fn spawn(server: &Server, args: &[&str], columns: u16, lines: u16) -> Self {
        let far = OpenOptions::new().read_write(true).unchecked(true).open_receiver("/dev/ptmx").unwrap();
        unlockpt(&far).unwrap();
        let near = ioctl_tiocgptpeer(&far, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        tcsetwinsize(&near, size(columns, lines)).unwrap();
        let stdio = || Stdio::from(near.try_clone().unwrap());
        // `setsid --ctty` makes the terminal the controlling one, so that it sends its signals.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "sh", "-c", SCRIPT, "sh", STREAMWARD]).args(args).env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm")
            .env("STREAMWARD_SERVER_ADMIN_SOCKET", server.socket());
        let shell = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        Self { shell, far, near, parser: vt100::Parser::new(some(lines), some(columns), 0) }
    }

    /// What is on the screen now.
    pub(crate) fn screen(&self) -> String {
        self.parser.screen().contents()
    }

    /// Presses these keys.
    pub(crate) fn press(&self, keys: &str) {
        assert_eq!(rustix::io::write(&self.far, keys.as_bytes()).unwrap(), keys.len());
    }

    /// Reads on until the screen contains all of these; the screen.
    pub(crate) async fn until(&mut self, needles: &[&str]) -> String {
        let wait = async {
            let mut bytes = [0; 512];
            while !needles.iter().all(|needle| self.screen().contains(needle)) {
                self.far.readable().await.unwrap();
                match self.far.try_read(&mut bytes) {
                    Ok(read) => self.parser.process(&bytes[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("waited for {needles:?} on the screen:\n{}", self.screen());
        }
        self.screen()
    }

    /// Another size; the terminal tells the program.
    pub(crate) fn resize(&mut self, columns: u16, lines: u16) {
        self.parser.screen_mut().set_size(some(lines), some(columns));
        tcsetwinsize(&self.far, size(columns, lines)).unwrap();
    }

    /// Sends the program, not the shell, a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let shell = self.shell.id();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        let program: i32 = children.trim().parse().unwrap();
        kill_process(Pid::from_raw(program).unwrap(), signal).unwrap();
    }

    /// Waits for the program's end with this code, and that it left the terminal as it was.
    pub(crate) async fn exited(mut self, code: i32) {
        let end = format!("exit={code}.");
        self.until(&[&end]).await;
        let screen = self.parser.screen();
        assert!(!screen.alternate_screen(), "it left the other screen");
        assert!(!screen.hide_cursor(), "the cursor is back");
        assert!(!screen.bracketed_paste(), "pastes come plain");
        let modes = tcgetattr(&self.near).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // Without its terminal the program ends by itself.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: lines, ws_xpixel: 0, ws_ypixel: 0 }
}

fn some(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).unwrap()
}
