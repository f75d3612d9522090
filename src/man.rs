//! Writes what a package ships beside the program: a manual page for each command and for the configuration, and
//! completions. Everything comes from the command line's and the configuration's own tables. No date is written: the
//! same source gives the same bytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use streamward::cli;
use streamward::config::{KeyManual, SectionManual, manual};

/// Where the package puts the configuration.
const CONFIG_PATH: &str = "/etc/streamward/streamward.toml";
const MANUAL: &str = "Streamward Manual";
const SOURCE: &str = concat!("streamward ", env!("CARGO_PKG_VERSION"));

fn main() -> Result<(), String> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        return Err("name one directory: the pages and completions are written there".to_owned());
    };
    let directory = PathBuf::from(directory);
    write_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))
}

fn write_all(directory: &Path) -> io::Result<()> {
    let made = [pages()?, completions()];
    for (name, bytes) in made.into_iter().flatten() {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(path, bytes)?;
    }
    Ok(())
}

/// Every page: its path below the directory and its text.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    // `help` would have a page of its own, and a tree of pages below it.
    let mut program = cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = vec![
        ("man1/streamward.1".to_owned(), program_page(&program)?),
        ("man5/streamward.toml.5".to_owned(), config_page(&manual())?),
    ];
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages.push((format!("man1/{}.1", page_name(command)), command_page(command)?));
        // `bench` has commands of its own.
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            pages.push((format!("man1/{}.1", page_name(below)), command_page(below)?));
        }
    }
    Ok(pages)
}

/// The scripts, named as each shell looks for them.
fn completions() -> Vec<(String, Vec<u8>)> {
    let of_shell = |(shell, name): (Shell, &str)| {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut cli::command(), "streamward", &mut script);
        (name.to_owned(), script)
    };
    let shells = [
        (Shell::Bash, "completions/bash/streamward"),
        (Shell::Zsh, "completions/zsh/_streamward"),
        (Shell::Fish, "completions/fish/streamward.fish"),
    ];
    shells.map(of_shell).to_vec()
}

/// `streamward-serve` of `streamward serve`.
fn page_name(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn program_page(program: &clap::Command) -> io::Result<Vec<u8>> {
    let mut sections = command_sections(program)?;
    Man::new(program.clone()).render_subcommands_section(&mut sections)?;
    let mut rest = Roff::new();
    notes(&mut rest, program);
    rest.control("SH", ["FILES"]);
    term(&mut rest, CONFIG_PATH, "What the service reads: streamward.toml(5).");
    term(
        &mut rest,
        "/run/streamward/admin.sock",
        "Where status, tree, cancel and the like find the service.",
    );
    see_also(&mut rest, &["streamward.toml(5)", "streamward-serve(1)", "systemctl(1)"]);
    rest.to_writer(&mut sections)?;
    page(page_name(program), "1", &sections)
}

fn command_page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut sections = command_sections(command)?;
    if command.has_subcommands() {
        // Each has its page; `help` needs none.
        let command = command.clone().disable_help_subcommand(true);
        Man::new(command).render_subcommands_section(&mut sections)?;
    }
    let mut rest = Roff::new();
    notes(&mut rest, command);
    see_also(&mut rest, &["streamward(1)", "streamward.toml(5)"]);
    rest.to_writer(&mut sections)?;
    page(page_name(command), "1", &sections)
}

/// What every command's page begins with.
fn command_sections(command: &clap::Command) -> io::Result<Vec<u8>> {
    let (man, mut sections) = (Man::new(command.clone()), Vec::new());
    man.render_name_section(&mut sections)?;
    man.render_synopsis_section(&mut sections)?;
    man.render_description_section(&mut sections)?;
    man.render_options_section(&mut sections)?;
    Ok(sections)
}

/// Sections below a title. roff's own title would lose an empty date, and each of its sections defines the apostrophe
/// again.
fn page(name: &str, section: &str, sections: &[u8]) -> io::Result<Vec<u8>> {
    let mut apostrophe = Vec::new();
    Roff::new().to_writer(&mut apostrophe)?;
    let apostrophe = String::from_utf8_lossy(&apostrophe);
    let sections = String::from_utf8_lossy(sections).replace(&*apostrophe, "");
    let name = name.to_ascii_uppercase();
    let title = format!(".TH \"{name}\" \"{section}\" \"\" \"{SOURCE}\" \"{MANUAL}\"");
    // No hyphens inside the names of variables and options, and no gaps between words.
    Ok(format!("{apostrophe}{title}\n.nh\n.ad l\n{sections}").into_bytes())
}

/// The text below a command's help: examples, then notes. Indented lines stay as they are written.
fn notes(page: &mut Roff, command: &clap::Command) {
    let Some(text) = command.get_after_long_help().or_else(|| command.get_after_help()) else { return };
    let text = text.to_string();
    let mut heading = None;
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let (verbatim, prose): (Vec<&str>, Vec<&str>) =
            paragraph.lines().partition(|line| line.starts_with(' '));
        let wanted = if heading != Some("NOTES") && !verbatim.is_empty() { "EXAMPLES" } else { "NOTES" };
        let begins = heading.replace(wanted) != Some(wanted);
        if begins {
            page.control("SH", [wanted]);
        } else {
            page.control(if prose.is_empty() { "sp" } else { "PP" }, []);
        }
        // The title of the examples is the section's own.
        let is_title = begins && wanted == "EXAMPLES";
        if !is_title && !prose.is_empty() {
            page.text([roman(prose.join("\n"))]);
        }
        if !verbatim.is_empty() {
            page.control("RS", ["4"]).control("nf", []);
            for line in verbatim {
                page.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
            }
            page.control("fi", []).control("RE", []);
        }
    }
}

fn config_page(sections: &[SectionManual]) -> io::Result<Vec<u8>> {
    let mut text = Roff::new();
    text.control("SH", ["NAME"]);
    text.text([roman("streamward.toml - configuration of the streamward server")]);
    text.control("SH", ["SYNOPSIS"]);
    text.text([roman(CONFIG_PATH)]);
    text.control("SH", ["DESCRIPTION"]);
    text.text([roman(
        "A TOML file for streamward-serve(1). Every key has a default, so that an empty file is a good one. Keys that \
         do not exist and values out of bounds are refused, all mistakes at once; to look for them before a restart: \
         streamward check-config --config FILE.",
    )]);
    text.control("PP", []);
    text.text([roman(
        "A duration is one whole number and one unit: \"500ms\", \"90s\", \"10m\", \"1h\". A size is bytes, or text with a \
         binary unit: 65536, \"64KiB\", \"1MiB\", \"1GiB\".",
    )]);
    text.control("PP", []);
    text.text([roman(
        "SIGHUP (systemctl reload streamward) has the file read again. A file with mistakes changes nothing. Keys that \
         need a restart say so below; the others are taken at once.",
    )]);
    for section in sections {
        text.control("SH", [format!("[{}]", section.name).as_str()]);
        text.text([roman(section.about)]);
        for key in &section.keys {
            key_paragraph(&mut text, key);
        }
    }
    text.control("SH", ["ENVIRONMENT"]);
    text.text([roman(
        "Each key is also a variable, STREAMWARD_<SECTION>_<KEY>, named with the key above. It wins over the file, and \
         a flag of streamward-serve(1) wins over both. Text is written without quotes. For the service: systemctl edit \
         streamward, with Environment= lines below [Service].",
    )]);
    text.control("SH", ["FILES"]);
    term(&mut text, CONFIG_PATH, "The service's file. An upgrade keeps what was changed in it.");
    see_also(
        &mut text,
        &["streamward(1)", "streamward-serve(1)", "streamward-check-config(1)", "systemctl(1)"],
    );
    let mut sections = Vec::new();
    text.to_writer(&mut sections)?;
    page("streamward.toml", "5", &sections)
}

fn key_paragraph(page: &mut Roff, key: &KeyManual) {
    page.control("TP", []);
    page.text([bold(key.name), roman(format!(" = {}", key.default))]);
    page.text([roman(key.help)]);
    page.control("IP", []);
    page.text([roman(format!("Takes {}.", key.takes))]);
    if !key.is_live {
        page.text([roman("A new value needs a restart.")]);
    }
    page.control("br", []);
    page.text([roman("Variable: "), bold(key.variable.as_str()), roman(".")]);
}

fn term(page: &mut Roff, term: &str, text: &str) {
    page.control("TP", []);
    page.text([bold(term)]);
    page.text([roman(text)]);
}

fn see_also(page: &mut Roff, pages: &[&str]) {
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(pages.join(", "))]);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn written() -> HashMap<String, String> {
        let all = pages().unwrap().into_iter().chain(completions());
        all.map(|(name, bytes)| (name, String::from_utf8(bytes).unwrap())).collect()
    }

    /// Words as a reader sees them: without what makes them bold, minus signs and apostrophes as such.
    fn plain(page: &str) -> String {
        page.replace("\\fB", "")
            .replace("\\fR", "")
            .replace("\\fI", "")
            .replace("\\-", "-")
            .replace("\\*(Aq", "'")
    }

    #[test]
    fn every_command_has_its_page_and_the_program_lists_it() {
        let written = written();
        let program = plain(&written["man1/streamward.1"]);
        let names = |command: &clap::Command| -> Vec<String> {
            command.get_subcommands().map(|c| c.get_name().to_owned()).collect()
        };
        let commands = names(&cli::command());
        assert!(commands.len() > 10, "{commands:?}");
        for command in &commands {
            let page = plain(&written[&format!("man1/streamward-{command}.1")]);
            assert!(page.contains(&format!("streamward {command}")), "{page}");
            assert!(program.contains(&format!("streamward-{command}(1)")), "{command} is not in the list");
        }
        let works = names(cli::command().find_subcommand("bench").unwrap());
        assert!(works.len() > 2, "{works:?}");
        let bench = plain(&written["man1/streamward-bench.1"]);
        for work in &works {
            let page = plain(&written[&format!("man1/streamward-bench-{work}.1")]);
            assert!(page.contains(&format!("streamward bench {work}")), "{page}");
            assert!(
                bench.contains(&format!("streamward-bench-{work}(1)")),
                "{work} is not in the list: {bench}"
            );
        }
        let pages = written.keys().filter(|name| name.starts_with("man1/")).count();
        assert_eq!(pages, commands.len() + works.len() + 1, "a page without a command");
    }

    #[test]
    fn every_option_of_a_command_is_on_its_page() {
        let written = written();
        let mut program = cli::command();
        program.build();
        for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
            let page = plain(&written[&format!("man1/{}.1", page_name(command))]);
            for long in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{long}")), "--{long} of {}", command.get_name());
            }
        }
    }

    #[test]
    fn every_key_has_its_default_bounds_and_variable_on_the_configuration_page() {
        let page = plain(&written()["man5/streamward.toml.5"]);
        let mut count = 0;
        for section in manual() {
            assert!(page.contains(&format!(".SH [{}]", section.name)), "[{}]", section.name);
            for key in section.keys {
                let start = page.find(&format!("{} = {}", key.name, key.default)).unwrap();
                let entry = page[start..].split(".TP").next().unwrap();
                assert!(entry.contains(key.help), "{entry}");
                assert!(entry.contains(&key.takes) && entry.contains(&key.variable), "{entry}");
                assert_eq!(!entry.contains("needs a restart"), key.is_live, "{entry}");
                count += 1;
            }
        }
        // The reference is the other text made from the table.
        let keys = streamward::config::reference();
        assert_eq!(count, keys.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count());
    }

    #[test]
    fn examples_stand_as_they_are_written() {
        let page = &written()["man1/streamward-status.1"];
        let examples = page.split(".SH EXAMPLES\n").nth(1).unwrap();
        assert!(examples.starts_with(".RS 4\n.nf\nstreamward status\n"), "{examples}");
        assert!(plain(examples).contains("\nstreamward status --watch --interval 5s\n"), "{examples}");
    }

    #[test]
    fn the_same_source_gives_the_same_files() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for directory in &directories {
            write_all(directory.path()).unwrap();
        }
        for (name, text) in written() {
            let read = |at: usize| fs::read_to_string(directories[at].path().join(&name)).unwrap();
            assert_eq!((read(0), read(1)), (text.clone(), text), "{name}");
        }
    }
}
