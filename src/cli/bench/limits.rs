//! `streamward bench limits`: the configuration of a hub that takes a crowd from one address.

use clap::Args;

use crate::base::limits::Limits;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// Sessions and connections beside those of the clients: the publisher, a first guest, somebody who looks.
const SPARE: u32 = 16;
/// Streams per second on one connection: far more than one client can open.
const STREAM_OPENS_PER_SECOND: u32 = 100_000;

/// Print the configuration of a hub that takes so many clients from one address
#[derive(Args, Debug)]
#[command(after_help = "\
Only what a crowd from one machine needs is raised; everything else, the memory
budget too, stays as it is by default.

Examples:
  streamward bench limits --clients 2000 > bench.toml
  streamward serve --config bench.toml")]
pub(crate) struct LimitsArgs {
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
}

/// Prints it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn run(args: &LimitsArgs, output: &mut Output) -> Result<Exit, Failure> {
    output.raw(configuration(args.clients).as_bytes())?;
    Ok(Exit::Ok)
}

fn configuration(clients: u32) -> String {
    let default = Limits::default();
    let connections = (clients + SPARE).max(default.connections_max);
    // All of them come at once when their connections were cut.
    let half_open = clients.max(default.half_open_max);
    let sessions = (clients + SPARE).max(default.sessions_max);
    format!(
        "# For `streamward bench` with {clients} clients from one address. Not for use: one address may take every place.\n\
         [limits]\n\
         connections_max = {connections}\n\
         connections_per_ip_max = {connections}\n\
         half_open_max = {half_open}\n\
         sessions_max = {sessions}\n\
         stream_opens_per_second_max = {STREAM_OPENS_PER_SECOND}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};

    #[test]
    fn a_hub_takes_the_configuration_and_with_it_the_crowd() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.toml");
        for clients in [1, 100, 2000] {
            std::fs::write(&path, configuration(clients)).unwrap();
            let limits = load(Some(&path), [], &Flags::default()).unwrap().limits;
            for places in [limits.connections_max, limits.connections_per_ip_max, limits.sessions_max] {
                assert!(places > clients, "{places} for {clients}");
            }
            let default = Limits::default();
            assert_eq!(limits.tails_bytes_max, default.tails_bytes_max);
            assert_eq!(limits.ping_timeout, default.ping_timeout);
        }
    }
}
