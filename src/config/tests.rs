//! Whole configurations: every source, every rule, every message.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use super::*;

const GIB: u64 = 1024 * 1024 * 1024;

fn pi(mem_total_bytes: u64) -> Machine {
    Machine { mem_total_bytes, has_runtime_directory: true, uid: Some(1000) }
}

fn read(file: &str, environment: &[(&str, &str)], flags: &Flags) -> Result<Config, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    read_in(directory.path(), file, environment, flags)
}

fn read_in(
    directory: &Path,
    file: &str,
    environment: &[(&str, &str)],
    flags: &Flags,
) -> Result<Config, ConfigErrors> {
    let path = directory.join("s.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_on(&pi(GIB), Some(&path), environment, flags)
}

/// The errors of a file, without the directory it is in.
fn errors(file: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let prefix = format!("{}/", directory.path().display());
    let ConfigErrors(errors) = read_in(directory.path(), file, environment, &Flags::default()).unwrap_err();
    errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
}

fn one_error(file: &str) -> String {
    let errors = errors(file, &[]);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

#[test]
fn nothing_given_is_the_default() {
    let config = load_on(&pi(GIB), None, [], &Flags::default()).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.limits.lease, Duration::from_secs(90));
    assert_eq!(config.log.level, LevelFilter::Info);
    assert_eq!(read("", &[], &Flags::default()).unwrap(), Config::default());
}

#[test]
fn the_defaults_are_accepted_with_512_mib() {
    assert!(load_on(&pi(GIB / 2), None, [], &Flags::default()).is_ok());
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n[limits]\nlease = \"5m\"\nsessions_max = 9\n";
    let environment =
        [("STREAMWARD_SERVER_LISTEN", "127.0.0.1:2"), ("STREAMWARD_LIMITS_LEASE", "6m"), ("HOME", "/")];
    let flags = Flags { listen: Some("127.0.0.1:3".into()), admin_socket: Some("/a/b.sock".into()) };
    let config = read(file, &environment, &flags).unwrap();
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.server.admin_socket, Path::new("/a/b.sock"));
    assert_eq!(config.limits.lease, Duration::from_secs(360));
    assert_eq!(config.limits.sessions_max, 9);
    assert_eq!(read(file, &environment, &Flags::default()).unwrap().server.listen.port(), 2);
    assert_eq!(read(file, &[], &Flags::default()).unwrap().server.listen.port(), 1);
}

#[test]
fn every_key_can_be_set_by_file_and_by_variable() {
    let reference = reference();
    for key in keys::KEYS {
        let value = value::shown(key, &mut Config::default());
        let literal = value::literal(key, &mut Config::default());
        let file = format!("[{}]\n{} = {literal}\n", key.section(), key.short());
        assert_eq!(read(&file, &[], &Flags::default()), Ok(Config::default()), "{file}");
        assert_eq!(read("", &[(&key.variable(), &value)], &Flags::default()), Ok(Config::default()));
        assert!(reference.contains(&format!("\n{} = {literal}\n", key.short())), "{}", key.name);

        let file = format!("[{}]\n{} = 1.5\n", key.section(), key.short());
        assert!(one_error(&file).contains(&format!("{} cannot be 1.5; write ", key.name)));
        assert_eq!(errors("", &[(&key.variable(), "?")]).len(), 1, "{}", key.name);
    }
}

#[test]
fn admin_socket_is_the_users_without_systemd() {
    let machine = Machine { mem_total_bytes: GIB, has_runtime_directory: false, uid: Some(1000) };
    let environment = [("XDG_RUNTIME_DIR".to_owned(), "/run/user/1000".to_owned())];
    let config = load_on(&machine, None, environment.clone(), &Flags::default()).unwrap();
    assert_eq!(config.server.admin_socket, Path::new("/run/user/1000/streamward/admin.sock"));
    let flags = Flags { admin_socket: Some("/a.sock".into()), ..Flags::default() };
    assert_eq!(
        load_on(&machine, None, environment, &flags).unwrap().server.admin_socket,
        Path::new("/a.sock")
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let file = "\
[limits]
lease = 90
sesions_max = 3
message_bytes_max = \"64KB\"

[limit]
x = 1

[memory]
tick = \"10ms\"
";
    let environment = [("STREAMWARD_LIMITS_LEESE", "90s"), ("STREAMWARD_LOG_LEVEL", "loud")];
    let found = errors(file, &environment);
    let starts = [
        "s.toml:2:9: limits.lease cannot be 90; write a duration from 1ms to ",
        "s.toml:3:1: there is no key limits.sesions_max; did you mean limits.sessions_max?",
        "s.toml:4:21: limits.message_bytes_max cannot be \"64KB\"; write a size from 1 to 1GiB: bytes as an integer",
        "s.toml:6:2: there is no section limit; did you mean [limits]?",
        "s.toml:10:8: memory.tick cannot be \"10ms\"; write a duration from 100ms to ",
        "STREAMWARD_LIMITS_LEESE: there is no such variable; did you mean STREAMWARD_LIMITS_LEASE?",
        "STREAMWARD_LOG_LEVEL: log.level cannot be loud; write one of \"off\", ",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}");
    }
}

#[test]
fn columns_count_characters() {
    assert!(one_error("log.\"ä\" = 1 # ä\n").starts_with("s.toml:1:5: there is no key log.ä; remove it"));
    let found = errors("log = { \"ä\" = 1, x = 2 }", &[]);
    assert!(found[0].starts_with("s.toml:1:9: ") && found[1].starts_with("s.toml:1:18: "), "{found:#?}");
}

#[test]
fn a_file_that_is_no_toml_is_one_error_with_its_line() {
    let text = one_error("[limits]\nlease = \n[memory]\nelevated_percent = 99\n");
    assert!(text.starts_with("s.toml:2:") && text.contains("not valid TOML"), "{text}");
    let text = one_error("[limits]\nlease = \"1s\"\nlease = \"2s\"\n");
    assert!(text.starts_with("s.toml:3:1: not valid TOML: duplicate key"), "{text}");
}

#[test]
fn a_missing_file_is_an_error() {
    let ConfigErrors(errors) = load(Some(Path::new("/nowhere/s.toml")), [], &Flags::default()).unwrap_err();
    assert!(matches!(errors.as_slice(), [ConfigError::Unreadable { .. }]), "{errors:?}");
    assert!(errors[0].to_string().starts_with("/nowhere/s.toml: cannot be read: "));
}

#[test]
fn a_section_is_a_table_and_a_key_alone_is_shown_its_section() {
    assert!(one_error("limits = 3").contains("limits cannot be 3; write [limits] on a line"));
    assert!(one_error("[[limits]]\n").contains("write [limits] on a line"));
    assert!(one_error("lease = \"90s\"").contains("did you mean limits.lease?"));
    assert!(one_error("[memory]\nlease = \"90s\"").contains("did you mean limits.lease?"));
    assert!(one_error("[memory]\nfrobnicate = 1").ends_with("there is no key memory.frobnicate; remove it"));
}

#[test]
fn rules_between_keys_name_both_and_their_places() {
    assert_eq!(
        one_error("[limits]\nlease = \"30s\"\n"),
        "s.toml:2:9: limits.heartbeat_interval = 30s must be below limits.lease = 30s (s.toml:2:9); lower \
         limits.heartbeat_interval or raise limits.lease"
    );
    assert!(one_error("[limits]\nheartbeat_interval = \"2m\"\n").starts_with(
        "s.toml:2:22: limits.heartbeat_interval = 2m must be below limits.lease = 90s (default)"
    ));
}

#[test]
fn every_rule_can_fail() {
    for (file, needle) in [
        ("memory.elevated_percent = 85", "memory.elevated_percent = 85 must be below memory.high_percent"),
        ("memory.high_percent = 95", "memory.high_percent = 95 must be below memory.critical_percent"),
        ("memory.critical_percent = 101", "a whole number from 1 to 100"),
        ("memory.hysteresis_percent = 70", "must be below memory.elevated_percent = 70"),
        ("memory.tick = \"99ms\"", "a duration from 100ms"),
        ("limits.sessions_per_user_max = 257", "must be at most limits.sessions_max = 256"),
        ("limits.connections_per_ip_max = 513", "must be at most limits.connections_max = 512"),
        ("limits.half_open_max = 513", "must be at most limits.connections_max = 512"),
        ("limits.subscriptions_per_stream_max = 4097", "must be at most limits.topics_max = 4096"),
        ("limits.lag_bytes_max = \"512KiB\"", "must be at most limits.tail_bytes_max = 256KiB"),
        ("limits.tail_bytes_max = \"33MiB\"", "must be at most limits.tails_bytes_max = 32MiB"),
        ("limits.message_bytes_max = \"128KiB\"", "must fit into limits.lag_bytes_max = 128KiB (default)"),
        ("limits.stream_window_bytes = 16383", "a size from 16KiB to 2147483647"),
        ("limits.stream_window_bytes = \"2MiB\"", "must be at most limits.connection_window_bytes = 1MiB"),
        ("limits.connection_window_bytes = 2147483648", "a size from 16KiB to 2147483647"),
        ("limits.ping_timeout = \"0s\"", "limits.ping_timeout cannot be \"0s\""),
        ("limits.sessions_max = 0", "limits.sessions_max cannot be 0; write a whole number from 1"),
        ("limits.sessions_max = -1", "limits.sessions_max cannot be -1"),
        ("limits.connections_max = 4294967296", "from 1 to 4294967295"),
        ("server.threads_max = 0", "server.threads_max cannot be 0"),
        ("server.admin_socket = \"admin.sock\"", "an absolute path of at most 107 bytes"),
        ("server.listen = \"50051\"", "an address and port"),
        ("server.listen = \"0.0.0.0:50051\"", "set auth.allow_open = true"),
        ("server.listen = \"[::]:50051\"", "set auth.allow_open = true"),
        ("auth.mode = \"closed\"", "auth.mode cannot be \"closed\"; write \"open\""),
        ("limits.tails_bytes_max = \"256MiB\"", "more than the memory budget of 256.0 MiB"),
        ("memory.budget_bytes = \"40MiB\"", "more than the memory budget of 40.0 MiB"),
    ] {
        let text = one_error(file);
        assert!(text.starts_with("s.toml:1:") && text.contains(needle), "{file}: {text}");
    }
}

#[test]
fn what_is_allowed_is_not_refused() {
    for file in [
        "server.listen = \"0.0.0.0:50051\"\nauth.allow_open = true",
        "server.listen = \"[::1]:50051\"",
        "server.listen = \"[::ffff:127.0.0.1]:50051\"",
        "limits.stream_idle_timeout = \"0s\"\nlimits.publishes_per_second_max = 0",
        "shutdown = { drain_timeout = \"0s\", flush_timeout = \"0s\" }",
        "limits.stream_window_bytes = 0x4000",
        "memory.budget_bytes = \"512MiB\"\nlimits.tails_bytes_max = \"256MiB\"",
    ] {
        let config = read(file, &[], &Flags::default());
        assert!(config.is_ok(), "{file}: {config:?}");
    }
}

#[test]
fn variables_and_flags_are_named_in_their_errors() {
    assert_eq!(
        errors("", &[("STREAMWARD_SERVER_LISTEN", "0.0.0.0:1")])[0].split_once(": ").unwrap().0,
        "STREAMWARD_SERVER_LISTEN"
    );
    let flags = Flags { listen: Some("here".into()), admin_socket: Some("x".into()) };
    let text = read("", &[], &flags).unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("--listen: server.listen cannot be here; write an address"), "{text}");
    assert!(lines[1].starts_with("--admin-socket: server.admin_socket cannot be x"), "{text}");
    assert_eq!(lines.len(), 2);
    let lost: PathBuf = OsStr::from_bytes(b"/run/\xff.sock").into();
    let text =
        read("", &[], &Flags { admin_socket: Some(lost), ..Flags::default() }).unwrap_err().to_string();
    assert!(
        text.starts_with("--admin-socket: server.admin_socket cannot be bytes that are not UTF-8"),
        "{text}"
    );
    assert!(errors("", &[("STREAMWARD_LIMITS_LEASE", "9\u{fffd}")])[0].contains("not UTF-8"));
    assert!(errors("", &[("STREAMWARD_LIMITS_LEASE", "")])[0].contains("cannot be empty"));
    assert!(errors("", &[("STREAMWARD_", "1")])[0].contains("there is no such variable"));
    assert!(read("", &[("STREAMWARD_SERVER", "pi:50051")], &Flags::default()).is_ok(), "a client's");
}

#[test]
fn every_error_is_one_line_of_bounded_length() {
    let long = "x\ny\u{1b}[2J".repeat(500);
    let value = format!("\"\"\"{long}\"\"\"").replace('\u{1b}', "\\u001b");
    let name = value.replace("\"\"\"", "\"").replace('\n', "\\n");
    for file in [
        format!("[log]\nlevel = {value}\n"),
        format!("log = {value}\n"),
        format!("log = [\n{}]\n", "1,\n".repeat(500)),
        format!("{name} = 1\n"),
        format!("[log]\n{name} = 1\n"),
    ] {
        let error = one_error(&file);
        assert!(!error.contains(char::is_control) && error.len() < 1000, "{error}");
    }
    for name in [format!("STREAMWARD_{long}"), "STREAMWARD_LOG_LEVEL".to_owned()] {
        let error = &errors("", &[(&name, &long)])[0];
        assert!(!error.contains(char::is_control) && error.len() < 1000, "{error}");
    }
}

#[test]
fn changes_name_what_differs_and_with_live_takes_what_a_process_can() {
    let old = Config::default();
    let file = "server.threads_max = 3\nauth.allow_open = true\nlog.level = \"debug\"\nlimits.lease = \"2m\"\n\
                limits.stream_window_bytes = \"64KiB\"\nmemory.tick = \"2s\"\nshutdown.retry_after = \"500ms\"\n";
    let new = read(file, &[], &Flags::default()).unwrap();
    let found: Vec<_> = changes(&old, &new);
    let text = |change: &Change| format!("{} {} {} {}", change.key, change.old, change.new, change.live);
    assert_eq!(
        found.iter().map(text).collect::<Vec<_>>(),
        [
            "server.threads_max 2 3 false",
            "auth.allow_open false true false",
            "log.level info debug true",
            "limits.lease 90s 2m true",
            "limits.stream_window_bytes 32KiB 64KiB true",
            "memory.tick 1s 2s true",
            "shutdown.retry_after 5s 500ms true",
        ]
    );
    let live = with_live(&old, &new);
    assert!(changes(&old, &live).iter().all(|change| change.live));
    assert!(changes(&live, &new).iter().all(|change| !change.live));
    assert_eq!(changes(&new, &new), []);
}

#[test]
fn the_reference_is_the_defaults() {
    assert_eq!(read(&reference(), &[], &Flags::default()), Ok(Config::default()));
    assert!(reference().lines().all(|line| line.len() <= 110));
}

#[test]
fn metrics_are_off_by_default_and_stay_on_this_machine() {
    assert_eq!(Config::default().server.metrics_listen, None);
    assert_eq!(
        read("server.metrics_listen = \"\"", &[], &Flags::default()).unwrap().server.metrics_listen,
        None
    );
    for address in ["127.0.0.1:9464", "127.1.2.3:0", "[::1]:9464", "[::ffff:127.0.0.1]:9464"] {
        let config = read(&format!("server.metrics_listen = {address:?}"), &[], &Flags::default()).unwrap();
        assert_eq!(config.server.metrics_listen, Some(address.parse().unwrap()));
    }
    for address in ["0.0.0.0:9464", "[::]:9464", "192.168.1.2:9464"] {
        let file = format!("server.metrics_listen = {address:?}\nauth.allow_open = true");
        let error = one_error(&file);
        assert!(error.starts_with("s.toml:1:25: server.metrics_listen"), "{error}");
        assert!(error.contains("SSH tunnel or a reverse proxy"), "{error}");
    }
    let error = one_error("server.metrics_listen = \"127.0.0.1:50051\"");
    assert!(error.contains("is server.listen too; choose another port"), "{error}");
    assert!(one_error("server.metrics_listen = \"9464\"").contains("or \"\" for none"));
}
