//! `streamward top`: a live view of the hub in a terminal.
//!
//! [`app::App`] is all state and decides without I/O; [`draw::draw`] is a function of it. Here are the edges: keys,
//! signals and the feed come in one at a time, and what the state asks for is done.

mod app;
mod canvas;
mod draw;
mod feed;
mod keys;
mod layout;
mod panes;
mod picture;
mod rates;
mod rows;
mod screen;
mod table;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::{Interrupt, SocketArgs};
use crate::cli::output::Output;
use crate::cli::status::parse_interval;
use crate::cli::top::app::{Action, App, Event, News};
use crate::cli::top::feed::{Feed, Settings, look};
use crate::cli::top::keys::Keys;
use crate::cli::top::layout::{HEIGHT_ROOMY, Layout, WIDTH_MIN};
use crate::cli::top::screen::Screen;
use crate::client::Admin;
use crate::config::{environment, variable};

/// News and questions under way. Both sides take them at once; a full channel only waits.
const CHANNEL_MAX: usize = 8;
/// Columns of a screen that goes nowhere in particular.
const WIDTH_DEFAULT: u16 = 80;
/// Columns that are believed.
const WIDTH_MAX: u16 = 500;

/// Watch sessions and streams live, and cancel them
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward top
  streamward top --interval 500ms
  streamward top --once                  one screen, also for scripts
  sudo streamward top --admin-socket /run/streamward/admin.sock

Keys: arrows select and fold, s and S sort, / filters, Enter inspects, c cancels
after asking, e shows recent ends, p pauses, + and - change the interval, ? helps,
q quits. Colours follow NO_COLOR.")]
pub(crate) struct TopArgs {
    /// How often to look: 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    interval: Duration,
    /// Print one screen, with the rates of one interval, and exit
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Shows it until one quits.
///
/// # Errors
/// Without a terminal, and when the admin socket cannot be reached or refuses at the start.
pub(crate) async fn run(args: TopArgs, output: &mut Output) -> Result<Exit, Failure> {
    let has_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !has_terminal && !args.once {
        return Err(Failure::told(
            Exit::Usage,
            "top needs a terminal. For a pipe or a file: `streamward status --watch`, with `--json` for programs, or \
             one screen with `streamward top --once`.",
        ));
    }
    let path = args.socket.path()?;
    let admin = Admin::connect(&path).await?;
    if args.once {
        return once(&admin, args.interval, output).await;
    }
    // A hub that refuses does so before the terminal is taken.
    admin.status().await?;
    let colours = output.paint.is_on();
    Box::pin(live(args.interval, path, admin, colours)).await
}

async fn live(interval: Duration, path: PathBuf, admin: Admin, colours: bool) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let terminal = |error: io::Error| Failure::told(Exit::Io, format!("cannot use the terminal: {error}."));
    let mut resized = signal(SignalKind::window_change()).map_err(terminal)?;
    let mut app = App::new(interval, colours);
    let (settings, wanted) = watch::channel(Settings { interval: app.interval, ended: false });
    let (asks, asked) = mpsc::channel(CHANNEL_MAX);
    let (told, mut news) = mpsc::channel(CHANNEL_MAX);
    let feed = Feed { path, settings: wanted, asks: asked, news: told }.run(admin);
    tokio::pin!(feed);
    let mut keys = Keys::new().map_err(terminal)?;
    let mut screen = Screen::take().map_err(terminal)?;
    loop {
        let (width, height) = screen.size().map_err(terminal)?;
        app.apply(Event::Size(width, height));
        screen.draw(&app).map_err(terminal)?;
        let event = tokio::select! {
            key = keys.next() => match key.map_err(terminal)? {
                Some(key) => Event::Key(key),
                None => return Ok(Exit::Ok),
            },
            Some(news) = news.recv() => Event::News(news),
            _ = resized.recv() => continue,
            () = interrupt.next() => return Ok(Exit::Ok),
            // It ends only when nobody listens.
            () = &mut feed => return Ok(Exit::Ok),
        };
        match app.apply(event) {
            Action::None => {}
            Action::Quit => return Ok(Exit::Ok),
            Action::Suspend => screen.suspend().map_err(terminal)?,
            Action::Redraw => screen.clear().map_err(terminal)?,
            Action::Ask(ask) => {
                if let Err(full) = asks.try_send(ask) {
                    let why = "too much is asked already".to_owned();
                    app.apply(Event::News(News::Answer(full.into_inner(), Err(why))));
                }
            }
        }
        let next = Settings { interval: app.interval, ended: app.wants_ended() };
        settings.send_if_modified(|now| std::mem::replace(now, next) != next);
    }
}

/// Two looks, an interval apart, as plain lines.
async fn once(admin: &Admin, interval: Duration, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let mut app = App::new(interval, false);
    let looks = async {
        let mut statuses = admin.watch(interval).await?;
        for _ in 0..2 {
            let Some(status) = statuses.next().await? else { break };
            let look = look(admin, status, false).await?;
            app.apply(Event::News(News::Look(Box::new(look))));
        }
        Ok(())
    };
    interrupt.or(looks).await?;
    for line in lines(&mut app, screen_width()) {
        output.line(&line)?;
    }
    Ok(Exit::Ok)
}

/// The whole tree on a screen as high as it takes, without the keys and the selection.
fn lines(app: &mut App, width: u16) -> Vec<String> {
    let width = width.clamp(WIDTH_MIN, WIDTH_MAX);
    let rows = u16::try_from(app.rows.rows.len() + usize::from(app.rows.more > 0)).unwrap_or(u16::MAX);
    let Some(mut layout) = Layout::of(width, HEIGHT_ROOMY, app.pane) else { return Vec::new() };
    layout.rows.height = rows.max(1);
    layout.footer.height = 0;
    app.hide_selection();
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, layout.rows.bottom()));
    draw::draw_parts(app, &layout, &mut buffer);
    let cells: Vec<&str> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
    cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
}

/// The columns of the terminal, or those a script says, or a common number.
fn screen_width() -> u16 {
    let terminal = tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0);
    let told = || variable(&environment(), "COLUMNS").and_then(|columns| columns.parse().ok());
    terminal.or_else(told).unwrap_or(WIDTH_DEFAULT)
}
