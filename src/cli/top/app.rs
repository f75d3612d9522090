//! What `top` knows and how keys and news change it. No I/O: [`App::apply`] says what is to be done.

use std::collections::HashSet;
use std::time::Duration;

use crate::base::limits::NOTE_BYTES_MAX;
use crate::cli::cancel;
use crate::cli::top::keys::Key;
use crate::cli::top::layout::Layout;
use crate::cli::top::picture::{Look, Picture, Session, Stream, plain};
use crate::cli::top::rates::History;
use crate::cli::top::rows::{Row, Rows, View, rows};
use crate::client::admin::CancelTarget;
use crate::wire::v1;

/// Intervals that `+` and `-` go through.
const INTERVALS_MS: [u64; 9] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];
/// Longest filter: no name is longer than a topic's.
const FILTER_BYTES_MAX: usize = 255;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Key(Key),
    /// The terminal's columns and lines.
    Size(u16, u16),
    News(News),
}

/// What the hub tells.
#[derive(Debug)]
pub(crate) enum News {
    Look(Box<Look>),
    /// No connection: why, and how often one has been tried since.
    Lost(String, u32),
    /// The answer to an [`Ask`].
    Answer(Ask, Result<v1::CancelResponse, String>),
}

/// A cancel, or the question what it would end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) target: CancelTarget,
    pub(crate) note: String,
    pub(crate) dry_run: bool,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    None,
    Quit,
    /// Back to the shell until it continues us.
    Suspend,
    /// Draw everything anew, whatever was there.
    Redraw,
    Ask(Ask),
}

/// Who gets the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Browse,
    Help,
    /// Typing a filter; the one before comes back with Escape.
    Filter {
        before: String,
    },
    Cancel(Cancel),
}

/// A cancel that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cancel {
    pub(crate) target: CancelTarget,
    /// What it is, for a person.
    pub(crate) label: String,
    pub(crate) note: String,
    /// What it would end, once counted.
    pub(crate) counted: Option<Result<String, String>>,
}

/// What is below the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pane {
    Closed,
    /// All about the selected node.
    Detail,
    /// Recent ends.
    Ended,
}

/// How the hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Connecting,
    Live,
    Lost { why: String, tries: u32 },
}

/// Everything that is drawn.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) picture: Picture,
    pub(crate) history: History,
    pub(crate) view: View,
    pub(crate) rows: Rows,
    pub(crate) mode: Mode,
    pub(crate) pane: Pane,
    pub(crate) link: Link,
    pub(crate) paused: bool,
    pub(crate) interval: Duration,
    /// The outcome of what was asked, until the next key.
    pub(crate) message: String,
    /// Whether colours are wanted.
    pub(crate) colours: bool,
    /// The selected row, and its id: rows move.
    pub(crate) selected: usize,
    selected_id: String,
    /// Off when nobody can move it.
    pub(crate) selection_shown: bool,
    /// The first row shown.
    pub(crate) offset: usize,
    size: (u16, u16),
}

/// What a row shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node<'a> {
    Session(&'a Session),
    Stream(&'a Session, &'a Stream),
}

impl Node<'_> {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Session(session) => &session.info.id,
            Self::Stream(_, stream) => &stream.info.id,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Session(session) => format!("{} of {}", session.info.id, session.info.user),
            Self::Stream(session, stream) => format!("{} of {}", stream.info.id, session.info.user),
        }
    }
}

impl App {
    pub(crate) fn new(interval: Duration, colours: bool) -> Self {
        Self {
            picture: Picture::default(),
            history: History::default(),
            view: View::default(),
            rows: Rows::default(),
            mode: Mode::Browse,
            pane: Pane::Closed,
            link: Link::Connecting,
            paused: false,
            interval,
            message: String::new(),
            colours,
            selected: 0,
            selected_id: String::new(),
            selection_shown: true,
            offset: 0,
            size: (0, 0),
        }
    }

    /// Takes what happened.
    pub(crate) fn apply(&mut self, event: Event) -> Action {
        let action = match event {
            Event::Key(key) => self.key(key),
            Event::Size(width, height) => {
                self.size = (width, height);
                Action::None
            }
            Event::News(news) => {
                self.news(news);
                Action::None
            }
        };
        self.scroll();
        action
    }

    /// Whether recent ends are shown.
    pub(crate) fn wants_ended(&self) -> bool {
        self.pane == Pane::Ended
    }

    /// The node of a row.
    pub(crate) fn node(&self, row: Row) -> Option<Node<'_>> {
        match row {
            Row::Session(at) => self.picture.sessions.get(at).map(Node::Session),
            Row::Stream(at, stream) => {
                let session = self.picture.sessions.get(at)?;
                session.streams.get(stream).map(|stream| Node::Stream(session, stream))
            }
        }
    }

    /// The selected node.
    pub(crate) fn selected_node(&self) -> Option<Node<'_>> {
        self.rows.rows.get(self.selected).and_then(|row| self.node(*row))
    }

    fn news(&mut self, news: News) {
        match news {
            News::Look(look) => {
                self.link = Link::Live;
                if !self.paused {
                    self.look(*look);
                }
            }
            News::Lost(why, tries) => self.link = Link::Lost { why: plain(&why), tries },
            News::Answer(ask, answer) => self.answer(&ask, answer),
        }
    }

    fn look(&mut self, look: Look) {
        let picture = Picture::new(look, Some(&self.picture));
        self.history.add(&self.picture.status, &picture.status);
        self.picture = picture;
        let live: HashSet<&str> =
            self.picture.sessions.iter().map(|session| session.info.id.as_str()).collect();
        self.view.folded.retain(|id| live.contains(id.as_str()));
        self.refresh();
    }

    fn answer(&mut self, ask: &Ask, answer: Result<v1::CancelResponse, String>) {
        let text = answer.map(|done| cancel::text(&done, ask.dry_run)).map_err(|why| plain(&why));
        if !ask.dry_run {
            self.message = text.unwrap_or_else(|why| format!("not cancelled: {why}"));
        } else if let Mode::Cancel(cancel) = &mut self.mode
            && cancel.target == ask.target
        {
            cancel.counted = Some(text);
        }
    }

    /// Makes the rows anew and finds the selected one again.
    fn refresh(&mut self) {
        self.rows = rows(&self.picture, &self.view);
        let is_selected = |row: &Row| self.node(*row).is_some_and(|node| node.id() == self.selected_id);
        let at = self.rows.rows.iter().position(is_selected).unwrap_or(self.selected);
        self.select(at);
    }

    fn select(&mut self, at: usize) {
        self.selected = at.min(self.rows.rows.len().saturating_sub(1));
        self.selected_id = self.selected_node().map_or_else(String::new, |node| node.id().to_owned());
    }

    /// For a picture that nobody moves in.
    pub(crate) fn hide_selection(&mut self) {
        self.selection_shown = false;
    }

    /// How many rows of the tree the screen has.
    fn page(&self) -> usize {
        let (width, height) = self.size;
        Layout::of(width, height, self.pane).map_or(1, |layout| usize::from(layout.rows.height).max(1))
    }

    /// Keeps the selected row on the screen.
    fn scroll(&mut self) {
        self.offset = shown_from(self.offset, self.selected, self.rows.rows.len(), self.page());
    }

    fn key(&mut self, key: Key) -> Action {
        let everywhere =
            [(Key::Interrupt, Action::Quit), (Key::Suspend, Action::Suspend), (Key::Redraw, Action::Redraw)];
        for (pressed, action) in everywhere {
            if key == pressed {
                return action;
            }
        }
        self.message.clear();
        match &self.mode {
            Mode::Browse => self.browse(key),
            Mode::Help => {
                self.mode = Mode::Browse;
                Action::None
            }
            Mode::Filter { before } => {
                let before = before.clone();
                self.filter(key, before);
                Action::None
            }
            Mode::Cancel(_) => self.confirm(key),
        }
    }

    fn browse(&mut self, key: Key) -> Action {
        let page = self.page();
        match key {
            Key::Up => self.select(self.selected.saturating_sub(1)),
            Key::Down => self.select(self.selected + 1),
            Key::PageUp => self.select(self.selected.saturating_sub(page)),
            Key::PageDown => self.select(self.selected + page),
            Key::Home => self.select(0),
            Key::End => self.select(usize::MAX),
            Key::Left => self.fold(),
            Key::Right => self.unfold(),
            Key::Enter => self.toggle(Pane::Detail),
            Key::Char('e') => self.toggle(Pane::Ended),
            Key::Char('s') => {
                self.view.column = self.view.column.next();
                self.view.reversed = false;
                self.refresh();
            }
            Key::Char('S') => {
                self.view.reversed = !self.view.reversed;
                self.refresh();
            }
            Key::Char('/') => self.mode = Mode::Filter { before: self.view.filter.clone() },
            Key::Char('c') => return self.ask(),
            Key::Char('p') => self.paused = !self.paused,
            Key::Char('+') => self.change_interval(true),
            Key::Char('-') => self.change_interval(false),
            Key::Char('?') => self.mode = Mode::Help,
            Key::Char('q') => return Action::Quit,
            Key::Escape => return self.escape(),
            Key::Char(_) | Key::Pasted(_) | Key::Backspace | Key::Interrupt | Key::Suspend | Key::Redraw => {}
        }
        Action::None
    }

    /// Takes away what is in front; with nothing there it is the way out.
    fn escape(&mut self) -> Action {
        if self.pane != Pane::Closed {
            self.pane = Pane::Closed;
        } else if !self.view.filter.is_empty() {
            self.view.filter.clear();
            self.refresh();
        } else {
            return Action::Quit;
        }
        Action::None
    }

    fn toggle(&mut self, pane: Pane) {
        self.pane = if self.pane == pane { Pane::Closed } else { pane };
    }

    fn fold(&mut self) {
        let Some(Node::Session(session) | Node::Stream(session, _)) = self.selected_node() else { return };
        let id = session.info.id.clone();
        let Some(Row::Session(at) | Row::Stream(at, _)) = self.rows.rows.get(self.selected).copied() else {
            return;
        };
        if let Some(owner) = self.rows.rows.iter().position(|row| *row == Row::Session(at))
            && owner != self.selected
        {
            // From a stream to its session; folding is the next step.
            self.select(owner);
        } else {
            self.view.folded.insert(id);
            self.refresh();
        }
    }

    fn unfold(&mut self) {
        let Some(node) = self.selected_node() else { return };
        let id = node.id().to_owned();
        if self.view.folded.remove(&id) {
            self.refresh();
        }
    }

    fn change_interval(&mut self, longer: bool) {
        let now = self.interval;
        let mut intervals = INTERVALS_MS.into_iter().map(Duration::from_millis);
        let next = if longer {
            intervals.find(|interval| *interval > now)
        } else {
            intervals.rev().find(|interval| *interval < now)
        };
        self.interval = next.unwrap_or(now);
    }

    fn filter(&mut self, key: Key, before: String) {
        if key == Key::Escape {
            self.view.filter = before;
        }
        if matches!(key, Key::Enter | Key::Escape) {
            self.mode = Mode::Browse;
        }
        edit(&mut self.view.filter, key, FILTER_BYTES_MAX);
        self.refresh();
    }

    /// Asks what cancelling the selected node would end.
    fn ask(&mut self) -> Action {
        let Some(node) = self.selected_node() else {
            self.message = "nothing is selected".to_owned();
            return Action::None;
        };
        let Ok(target) = node.id().parse::<CancelTarget>() else {
            self.message = format!("{} cannot be cancelled", node.id());
            return Action::None;
        };
        let label = node.label();
        self.mode =
            Mode::Cancel(Cancel { target: target.clone(), label, note: String::new(), counted: None });
        Action::Ask(Ask { target, note: String::new(), dry_run: true })
    }

    fn confirm(&mut self, key: Key) -> Action {
        let Mode::Cancel(cancel) = &mut self.mode else { return Action::None };
        // Only what has been counted, and so seen, is ended.
        if key == Key::Enter && matches!(cancel.counted, Some(Ok(_))) {
            let ask = Ask { target: cancel.target.clone(), note: cancel.note.clone(), dry_run: false };
            self.mode = Mode::Browse;
            self.message = "cancelling".to_owned();
            return Action::Ask(ask);
        }
        edit(&mut cancel.note, key, NOTE_BYTES_MAX);
        if key == Key::Escape {
            self.mode = Mode::Browse;
        }
        Action::None
    }
}

/// The first row to show, so that the selected one is on a page of this many and no line stays empty.
pub(crate) fn shown_from(offset: usize, selected: usize, rows: usize, page: usize) -> usize {
    let first = (selected + 1).saturating_sub(page);
    offset.clamp(first, selected.max(first)).min(rows.saturating_sub(page).max(first))
}

/// Types into a line of at most this many bytes.
fn edit(line: &mut String, key: Key, bytes_max: usize) {
    if key == Key::Backspace {
        line.pop();
    }
    if let Key::Char(c) | Key::Pasted(c) = key
        && line.len() + c.len_utf8() <= bytes_max
    {
        line.push(c);
    }
}
