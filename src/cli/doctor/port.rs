//! Whether the hub could have its port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;

/// Who listens, and whether a hub runs.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    /// None when the kernel's tables cannot be read.
    listeners: Option<Vec<SocketAddr>>,
    is_hub_running: bool,
}

pub(crate) fn read(root: &Root) -> Ports {
    let tables: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|path| root.text(path)).collect();
    let all = || tables.iter().flat_map(|table| listeners(table)).collect();
    Ports { listeners: (!tables.is_empty()).then(all), is_hub_running: is_hub_running(root) }
}

/// The listening sockets of a table; they come before the connections.
fn listeners(table: &str) -> Vec<SocketAddr> {
    const LISTENING: &str = "0A";
    let address = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, state) = (fields.next()?, fields.nth(1)?);
        if state == LISTENING { socket_address(address) } else { None }
    };
    table.lines().filter_map(address).collect()
}

/// `0100007F:C383`: words of four bytes as this machine holds them, then the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(words.as_flattened()).for_each(|(byte, found)| *byte = *found);
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether a process has the command line `…/streamward serve …`.
fn is_hub_running(root: &Root) -> bool {
    let is_process = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    root.names("/proc").iter().filter(|name| is_process(name)).any(|process| {
        let line = root.text(&format!("/proc/{process}/cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        let is_ours = words.next().is_some_and(|program| program.rsplit('/').next() == Some("streamward"));
        is_ours && words.any(|word| word == "serve")
    })
}

/// Whether both cannot be listened on at once.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (left, right) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (left == right || left.is_unspecified() || right.is_unspecified())
}

pub(crate) fn judge(ports: &Ports, listen: SocketAddr, is_socket_enabled: bool) -> Finding {
    const ID: &str = "port";
    let Some(listeners) = &ports.listeners else {
        return Finding::warn(
            ID,
            "not known: /proc/net/tcp cannot be read",
            "Another program may listen where the hub should.",
            "See `ss -ltn`.",
        );
    };
    let taken = listeners.iter().find(|other| listen.port() != 0 && collide(listen, **other));
    match taken {
        None => Finding::ok(ID, format!("{listen} is free"), "The hub can listen there."),
        Some(_) if is_socket_enabled => Finding::ok(
            ID,
            format!("{listen} is taken"),
            "As it should be: by systemd, for streamward.socket.",
        ),
        Some(_) if ports.is_hub_running => {
            Finding::ok(ID, format!("{listen} is taken"), "And a hub runs: most likely by it.")
        }
        Some(other) => Finding::fail(
            ID,
            format!("another program listens on {other}"),
            format!("The hub cannot start with server.listen = {listen}."),
            format!("See who: `sudo ss -ltnp sport = :{}`. Stop it, or choose another port.", listen.port()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;
    use std::fs;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:C383 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12346 1
   2: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 12347 1
   3: junk
";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_read_from_the_kernels_tables() {
        assert_eq!(listeners(TABLE), [address("127.0.0.1:50051"), address("0.0.0.0:22")]);
        let v6 = "0: 00000000000000000000000001000000:C383 0:0 0A\n1: 0000000000000000FFFF00000100007F:0001 0:0 0A\n";
        assert_eq!(listeners(v6), [address("[::1]:50051"), address("[::ffff:127.0.0.1]:1")]);
        for text in ["", ":", "0100007F", "0100007F:x", "0100007:1", "01000é7F:1", "0100007F:10000"] {
            assert_eq!(socket_address(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_port_that_another_program_has_fails() {
        let judged = |listener: &str, is_hub_running, is_socket_enabled| {
            let ports = Ports { listeners: Some(vec![address(listener)]), is_hub_running };
            judge(&ports, address("127.0.0.1:50051"), is_socket_enabled).verdict
        };
        for listener in ["127.0.0.1:50051", "0.0.0.0:50051", "[::]:50051", "[::ffff:127.0.0.1]:50051"] {
            assert_eq!(judged(listener, false, false), Verdict::Fail, "{listener}");
            assert_eq!(judged(listener, true, false), Verdict::Ok, "{listener}");
            assert_eq!(judged(listener, false, true), Verdict::Ok, "{listener}");
        }
        for listener in ["127.0.0.1:50052", "192.168.1.5:50051", "[::1]:50051"] {
            assert_eq!(judged(listener, false, false), Verdict::Ok, "{listener}");
        }
        let unknown = Ports { listeners: None, is_hub_running: false };
        assert_eq!(judge(&unknown, address("127.0.0.1:1"), false).verdict, Verdict::Warn);
        let any = Ports { listeners: Some(vec![address("0.0.0.0:0")]), is_hub_running: false };
        assert_eq!(judge(&any, address("127.0.0.1:0"), false).verdict, Verdict::Ok);
    }

    #[test]
    fn a_hub_is_known_by_its_command_line() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let process = |id: &str, line: &str| {
            fs::create_dir_all(root.path(&format!("/proc/{id}"))).unwrap();
            fs::write(root.path(&format!("/proc/{id}/cmdline")), line).unwrap();
        };
        process("1", "/sbin/init\0");
        process("2", "vi\0/usr/bin/streamward\0serve\0");
        process("3", "/usr/bin/streamward\0doctor\0");
        process("self", "/usr/bin/streamward\0serve\0");
        assert!(!is_hub_running(&root));
        process("4", "/usr/bin/streamward\0serve\0--config\0/x\0");
        assert!(is_hub_running(&root));
    }
}
