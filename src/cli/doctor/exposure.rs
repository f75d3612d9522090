//! Who can reach the hub, and whether they are asked who they are.

use std::net::{Ipv6Addr, SocketAddr};

use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::unit::UnitFile;
use crate::config::{AuthMode, Config, is_reachable};

/// Where clients connect, and how much of the network that is. `socket` is the enabled `streamward.socket`, which wins
/// over the configuration.
pub(crate) fn judge(config: &Config, socket: Option<&UnitFile>) -> [Finding; 2] {
    let listen = config.server.listen;
    let Some(socket) = socket else {
        let meaning = format!("server.listen = {listen} counts.");
        let activation = Finding::ok("socket_activation", "streamward.socket is not enabled", meaning);
        return [activation, exposure(config, &[listen])];
    };
    let texts = socket.list("Socket", "ListenStream");
    let addresses: Vec<SocketAddr> = texts.iter().filter_map(|text| address(text)).collect();
    [activation(listen, &texts, &addresses), exposure(config, &addresses)]
}

/// A network address of `ListenStream=`: a port alone is every interface (systemd.socket(5)). None for Unix sockets.
fn address(text: &str) -> Option<SocketAddr> {
    let port = text.parse::<u16>().ok().map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    port.or_else(|| text.parse().ok())
}

/// Every interface is the same in either family, as systemd binds both.
fn plain(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    }
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn activation(listen: SocketAddr, texts: &[&str], addresses: &[SocketAddr]) -> Finding {
    const ID: &str = "socket_activation";
    const EDIT: &str = "`systemctl edit streamward.socket`: an empty ListenStream= first, then";
    let found = format!("streamward.socket is enabled: {}", texts.join(", "));
    match (texts, addresses) {
        ([_], [address]) if plain(*address) == plain(listen) => {
            Finding::ok(ID, found, "As in server.listen; restarts refuse no connection.")
        }
        ([_], [_]) => Finding::warn(
            ID,
            found,
            format!("The socket wins: server.listen = {listen} has no effect."),
            format!(
                "Write the same address into both, so that nobody is misled. {EDIT} ListenStream={listen}."
            ),
        ),
        _ => Finding::fail(
            ID,
            found,
            "The hub takes exactly one network socket from systemd and does not start with this.",
            format!("{EDIT} one address, such as ListenStream={listen}."),
        ),
    }
}

fn exposure(config: &Config, addresses: &[SocketAddr]) -> Finding {
    const ID: &str = "exposure";
    let metrics = config.server.metrics_listen.map_or_else(
        || "no metrics page".to_owned(),
        |address| format!("metrics at http://{address}/metrics, loopback only"),
    );
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let reachable = addresses.iter().find(|address| is_reachable(**address));
    let AuthMode::Open = config.auth.mode;
    let found = format!("{}, auth.mode = open; {metrics}", all.join(", "));
    match reachable {
        None => Finding::ok(ID, found, "Only programs on this machine can connect.").advice(format!(
            "To let others in: server.listen = \"0.0.0.0:{}\" and auth.allow_open = true, where everyone on the network is \
             trusted; else an SSH tunnel.",
            config.server.listen.port()
        )),
        Some(address) if config.auth.lets_in_strangers(*address) => Finding::fail(
            ID,
            found,
            format!(
                "The hub does not start: whoever reaches {address} could log in under any name, and auth.allow_open does \
                 not say that this is meant."
            ),
            "Set auth.allow_open = true if it is; else give streamward.socket a loopback address.",
        ),
        Some(_) => Finding::warn(
            ID,
            found,
            "Whoever reaches it logs in under any name; auth.allow_open says that this is meant.",
            "Fine on a network where everyone is trusted. Else listen on 127.0.0.1, or let a firewall choose who gets in.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    fn config(listen: &str, allow_open: bool) -> Config {
        let mut config = Config::default();
        config.server.listen = listen.parse().unwrap();
        config.auth.allow_open = allow_open;
        config
    }

    fn verdicts(config: &Config, listen_stream: Option<&str>) -> [Verdict; 2] {
        let socket = listen_stream.map(|lines| {
            let lines = lines.split(' ').map(|text| format!("ListenStream={text}\n"));
            UnitFile::of(&format!("[Socket]\n{}", lines.collect::<String>()))
        });
        judge(config, socket.as_ref()).map(|finding| finding.verdict)
    }

    #[test]
    fn loopback_is_well_and_an_open_network_a_warning() {
        use Verdict::{Ok, Warn};
        for (listen, allow_open, expected) in [
            ("127.0.0.1:50051", false, Ok),
            ("127.0.0.1:50051", true, Ok),
            ("[::1]:50051", false, Ok),
            ("[::ffff:127.0.0.1]:50051", false, Ok),
            ("0.0.0.0:50051", true, Warn),
            ("[::]:50051", true, Warn),
            ("192.168.1.5:50051", true, Warn),
        ] {
            assert_eq!(verdicts(&config(listen, allow_open), None), [Ok, expected], "{listen}");
        }
        let [_, exposure] = judge(&config("127.0.0.1:7", false), None);
        assert!(exposure.advice.contains("0.0.0.0:7"), "how to open it: {exposure:?}");
    }

    #[test]
    fn the_socket_wins_and_a_network_nobody_meant_fails() {
        use Verdict::{Fail, Ok, Warn};
        for (listen, allow_open, streams, expected) in [
            ("127.0.0.1:50051", false, "127.0.0.1:50051", [Ok, Ok]),
            ("127.0.0.1:50051", false, "127.0.0.1:50052", [Warn, Ok]),
            ("127.0.0.1:50051", false, "50051", [Warn, Fail]),
            ("127.0.0.1:50051", false, "127.0.0.1:50051 192.168.1.5:50051", [Fail, Fail]),
            ("0.0.0.0:50051", true, "50051", [Ok, Warn]),
            ("0.0.0.0:50051", true, "[::]:50051", [Ok, Warn]),
            ("0.0.0.0:50051", true, "127.0.0.1:50051", [Warn, Ok]),
            ("127.0.0.1:50051", false, "/run/x.sock", [Fail, Ok]),
            ("127.0.0.1:50051", false, "127.0.0.1:50051 /run/x.sock", [Fail, Ok]),
            ("127.0.0.1:50051", false, "", [Fail, Ok]),
        ] {
            assert_eq!(verdicts(&config(listen, allow_open), Some(streams)), expected, "{listen} {streams}");
        }
        let socket =
            UnitFile::of("[Socket]\nListenStream=50051\nListenStream=\nListenStream=127.0.0.1:50051\n");
        assert_eq!(
            judge(&Config::default(), Some(&socket)).map(|finding| finding.verdict),
            [Ok, Ok],
            "an edited socket"
        );
    }

    #[test]
    fn the_metrics_page_is_told() {
        let mut config = config("127.0.0.1:7", false);
        assert!(judge(&config, None)[1].found.ends_with("no metrics page"));
        config.server.metrics_listen = Some("127.0.0.1:9464".parse().unwrap());
        assert!(judge(&config, None)[1].found.contains("http://127.0.0.1:9464/metrics"));
    }
}
