//! Terminal, signals, and the thread of the source.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use crossterm::{
    clipboard::CopyToClipboard,
    cursor, event, execute,
    style::force_color_output,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use log::LevelFilter;
use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::{Backend as _, CrosstermBackend},
    layout::{Rect, Size},
};
use signal_hook::{
    consts::{SIGCONT, SIGINT, SIGTERM, SIGTSTP},
    flag,
};

use super::{
    messages::{TopEffect, TopEvent, TopKey, TopRequest},
    model::TopModel,
    view::{TopTheme, draw},
};
use crate::{clock, signals};
use closewait_engine::{snapshot::query::Filter, time::BootTime};

/// Maximum time until a signal or an answer is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two ticks of the model.
const TICK_INTERVAL: Duration = Duration::from_secs(1);
/// Time until a destruction selects its sockets, at most: in this time, a group grows.
const SELECTION_MARGIN: Duration = Duration::from_secs(1);
/// Largest screen that is drawn, in columns and rows: a terminal can claim a size whose cells would take all memory.
pub const MAX_SIZE: (u16, u16) = (512, 256);
/// Exit code after a second signal while the terminal blocks: that of SIGTERM in a shell.
const FORCED_EXIT: i32 = 143;

/// Whether the terminal is in raw mode, on the alternate screen.
static IS_FULL: AtomicBool = AtomicBool::new(false);

/// Origin of snapshots, on a thread of its own.
pub trait TopSource {
    /// Returns the time until the next refresh; `None` if the groups change only on request.
    fn interval(&self) -> Option<Duration>;

    /// Answers a request. Text has lines of at most `width` columns.
    fn answer(&mut self, request: TopRequest, width: u16) -> TopEvent;
}

/// Actions on the host, on the normal screen.
pub trait Hands {
    /// Destroys the sockets that the filter matches, if there are at most `count`. Prints the result.
    fn kill(&mut self, filter: &Filter, count: u32);
}

/// Request, and the width of the screen.
type Asked = (TopRequest, u16);

/// Shows the groups until the user, SIGINT or SIGTERM ends it. `open` opens the source on its thread. Restores the terminal,
/// also after a panic.
///
/// # Errors
///
/// If the terminal fails, or the source cannot be opened.
pub fn drive<S: TopSource>(
    model: TopModel,
    theme: TopTheme,
    open: impl FnOnce() -> anyhow::Result<S> + Send + 'static,
    hands: &mut dyn Hands,
) -> anyhow::Result<()> {
    let flags = SignalFlags::register().context("registering signal handlers failed")?;
    let (requests, asked) = mpsc::channel();
    let (events, answers) = mpsc::channel();
    thread::Builder::new()
        .name("closewait-top".to_owned())
        .spawn(move || match open() {
            Ok(source) => serve(source, &asked, &events),
            // The other end shows it, or has gone.
            Err(error) => events.send(Err(error)).unwrap_or_default(),
        })
        .context("starting a thread failed")?;
    // Crossterm itself heeds only NO_COLOR, and the theme has decided.
    force_color_output(theme.color);
    let levels = log::max_level();
    // The log would overwrite the screen.
    log::set_max_level(LevelFilter::Off);
    let result = FullScreen::enter().and_then(|screen| {
        let input = read_input()?;
        let mut driver = Driver { model, theme, levels, flags, requests, answers, input, hands, screen };
        driver.run()
    });
    log::set_max_level(levels);
    result
}

/// Starts the thread that reads the terminal. Within a key sequence whose end does not come, as after Alt+[, crossterm waits in
/// `read` until the next key: the screen must not wait with it.
fn read_input() -> anyhow::Result<Receiver<io::Result<Option<TopEvent>>>> {
    let (sender, input) = mpsc::channel();
    let read = move || {
        loop {
            let event = event::read().map(|event| match event {
                event::Event::Key(key) => key_of(key).map(TopEvent::Key),
                event::Event::Resize(..) => Some(TopEvent::Resized),
                event::Event::FocusGained
                | event::Event::FocusLost
                | event::Event::Mouse(_)
                | event::Event::Paste(_) => None,
            });
            let is_over = event.is_err();
            if sender.send(event).is_err() || is_over {
                return;
            }
        }
    };
    thread::Builder::new().name("closewait-input".to_owned()).spawn(read).context("starting a thread failed")?;
    Ok(input)
}

/// Answers requests, and refreshes on its own, until the other end has gone.
fn serve(mut source: impl TopSource, asked: &Receiver<Asked>, events: &Sender<anyhow::Result<TopEvent>>) {
    let mut waiting = VecDeque::from([(TopRequest::Refresh, 0)]);
    loop {
        waiting.extend(asked.try_iter());
        let Some((request, width)) = waiting.pop_front() else {
            let received = match source.interval() {
                Some(interval) => asked.recv_timeout(interval),
                None => asked.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(next) => waiting.push_back(next),
                Err(RecvTimeoutError::Timeout) => waiting.push_back((TopRequest::Refresh, 0)),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            continue;
        };
        // A key that is held down asks for more times than a long recording can be played to.
        let is_seek = |request: &TopRequest| matches!(request, TopRequest::Seek(_));
        if is_seek(&request) && waiting.front().is_some_and(|(next, _)| is_seek(next)) {
            continue;
        }
        if events.send(Ok(source.answer(request, width))).is_err() {
            return;
        }
    }
}

/// Signals that have arrived.
struct SignalFlags {
    end: Arc<AtomicBool>,
    suspend: Arc<AtomicBool>,
    continued: Arc<AtomicBool>,
}

impl SignalFlags {
    fn register() -> io::Result<Self> {
        let [end, suspend, continued] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        for signal in [SIGINT, SIGTERM] {
            // A second signal ends a process whose terminal takes no more output.
            flag::register_conditional_shutdown(signal, FORCED_EXIT, Arc::clone(&end))?;
            flag::register(signal, Arc::clone(&end))?;
        }
        flag::register(SIGTSTP, Arc::clone(&suspend))?;
        flag::register(SIGCONT, Arc::clone(&continued))?;
        Ok(Self { end, suspend, continued })
    }
}

/// Terminal in raw mode, on the alternate screen. Dropping it restores the terminal.
struct FullScreen {
    terminal: Terminal<CrosstermBackend<io::Stdout>>,
}

impl FullScreen {
    fn enter() -> anyhow::Result<Self> {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            leave();
            report(info);
        }));
        enable().context("setting up the terminal failed")?;
        let terminal = Self::sized().inspect_err(|_failed| leave()).context("reading the terminal's size failed")?;
        Ok(Self { terminal })
    }

    fn sized() -> io::Result<Terminal<CrosstermBackend<io::Stdout>>> {
        let backend = CrosstermBackend::new(io::stdout());
        let viewport = Viewport::Fixed(drawn_area(backend.size()?));
        Terminal::with_options(backend, TerminalOptions { viewport })
    }

    /// Follows a change of the terminal's size.
    fn fit(&mut self) -> io::Result<()> {
        let area = drawn_area(self.terminal.size()?);
        if area == self.terminal.get_frame().area() { Ok(()) } else { self.terminal.resize(area) }
    }

    /// Sets the terminal up again, and draws all of it.
    fn enable_again(&mut self) -> io::Result<()> {
        // Whoever continued this process may have changed the modes, and crossterm sets only those that it does not know as set.
        disable_raw_mode()?;
        enable()?;
        self.draw_all_again()
    }

    /// Clears the screen. `Terminal::clear` would ask the terminal for its cursor, and wait for the answer.
    fn draw_all_again(&mut self) -> io::Result<()> {
        let area = drawn_area(self.terminal.size()?);
        self.terminal.resize(area)
    }
}

fn drawn_area(size: Size) -> Rect {
    Rect::new(0, 0, size.width.min(MAX_SIZE.0), size.height.min(MAX_SIZE.1))
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        leave();
    }
}

fn enable() -> io::Result<()> {
    IS_FULL.store(true, Ordering::Relaxed);
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
}

/// Restores the terminal, once: a second time would move the cursor back over what was printed since. A terminal that has gone
/// needs no restoring.
fn leave() {
    if IS_FULL.swap(false, Ordering::Relaxed) {
        let _gone: io::Result<()> = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _gone: io::Result<()> = disable_raw_mode();
    }
}

/// Loop between terminal, model and source.
struct Driver<'a> {
    model: TopModel,
    theme: TopTheme,
    /// Levels of the log outside of the full screen.
    levels: LevelFilter,
    flags: SignalFlags,
    requests: Sender<Asked>,
    answers: Receiver<anyhow::Result<TopEvent>>,
    input: Receiver<io::Result<Option<TopEvent>>>,
    hands: &'a mut dyn Hands,
    screen: FullScreen,
}

impl Driver<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut ticked = clock::now();
        let mut is_changed = true;
        loop {
            if self.flags.end.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.flags.continued.swap(false, Ordering::Relaxed) {
                self.screen.enable_again().context("setting up the terminal failed")?;
                is_changed = true;
            }
            if self.flags.suspend.swap(false, Ordering::Relaxed) {
                self.suspend();
                continue;
            }
            loop {
                let event = match self.answers.try_recv() {
                    Ok(event) => event?,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => anyhow::bail!("the thread that reads the groups has ended"),
                };
                is_changed = true;
                if self.handle(event)? {
                    return Ok(());
                }
            }
            if clock::now().since(ticked) >= TICK_INTERVAL {
                ticked = clock::now();
                if self.handle(TopEvent::Tick)? {
                    return Ok(());
                }
            }
            if std::mem::take(&mut is_changed) {
                self.draw()?;
            }
            if let Some(event) = self.input(POLL_INTERVAL).context("reading the terminal failed")? {
                is_changed = true;
                if let Some(event) = event
                    && self.handle(event)?
                {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for input; the inner `None` is input without a meaning here.
    fn input(&self, patience: Duration) -> io::Result<Option<Option<TopEvent>>> {
        match self.input.recv_timeout(patience) {
            Ok(event) => event.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        self.screen.fit().context("writing to the terminal failed")?;
        let (model, theme) = (&self.model, self.theme);
        let drawn = self.screen.terminal.draw(|frame| draw(model, theme, frame.area(), frame.buffer_mut()));
        drawn.map(|_| ()).context("writing to the terminal failed")
    }

    /// Handles an event. Returns whether the view ends.
    fn handle(&mut self, event: TopEvent) -> anyhow::Result<bool> {
        match self.model.handle(event) {
            None => {}
            Some(TopEffect::Quit) => return Ok(true),
            Some(TopEffect::Suspend) => self.suspend(),
            Some(TopEffect::Redraw) => self.screen.draw_all_again().context("writing to the terminal failed")?,
            Some(TopEffect::Ask(request)) => self.ask(request),
            Some(TopEffect::Copy(text)) => {
                let mut stdout = io::stdout();
                execute!(stdout, CopyToClipboard::to_clipboard_from(text)).context("writing to the terminal failed")?;
            }
            Some(TopEffect::Kill { filter, count, at }) => self.kill(filter, count, at)?,
        }
        Ok(false)
    }

    fn ask(&mut self, request: TopRequest) {
        let width = self.screen.terminal.size().map_or(0, |size| size.width);
        // If the thread has ended, the loop notices.
        let _ended: Result<(), _> = self.requests.send((request, width));
    }

    /// Gives the terminal back to the shell, and stops until the shell continues this process.
    fn suspend(&mut self) {
        leave();
        signals::stop();
        self.flags.continued.store(true, Ordering::Relaxed);
    }

    /// Destroys sockets on the normal screen, and waits until the user has read the result.
    fn kill(&mut self, filter: Filter, count: u32, planned: BootTime) -> anyhow::Result<()> {
        leave();
        // Sockets that were too young for the plan stay too young. Otherwise a growing group would always exceed the count.
        let since = clock::now().since(planned) + SELECTION_MARGIN;
        let filter = &Filter { older_than: filter.older_than.map(|age| age + since), ..filter };
        log::set_max_level(self.levels);
        self.hands.kill(filter, count);
        log::set_max_level(LevelFilter::Off);
        let mut stdout = io::stdout();
        let prompted = write!(stdout, "\npress a key to return").and_then(|()| stdout.flush());
        prompted.context("writing to the terminal failed")?;
        enable_raw_mode().context("setting up the terminal failed")?;
        let waited = self.wait_for_key();
        disable_raw_mode().context("setting up the terminal failed")?;
        waited.context("reading the terminal failed")?;
        self.flags.continued.store(true, Ordering::Relaxed);
        self.ask(TopRequest::Refresh);
        Ok(())
    }

    /// Waits for a key or the end.
    fn wait_for_key(&self) -> io::Result<()> {
        // Keys that were pressed before the prompt.
        self.input.try_iter().for_each(drop);
        while !self.flags.end.load(Ordering::Relaxed) {
            if matches!(self.input(POLL_INTERVAL)?, Some(None | Some(TopEvent::Key(_)))) {
                break;
            }
        }
        Ok(())
    }
}

/// Converts a key; `None` for a release, or one that has no meaning here.
#[expect(clippy::wildcard_enum_match_arm, reason = "most keys have no meaning here")]
fn key_of(key: event::KeyEvent) -> Option<TopKey> {
    use event::KeyCode;
    if key.kind == event::KeyEventKind::Release {
        return None;
    }
    let is_control = key.modifiers.contains(event::KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char(character) if is_control => Some(TopKey::Control(character.to_ascii_lowercase())),
        KeyCode::Char(character) => Some(TopKey::Char(character)),
        KeyCode::Enter => Some(TopKey::Enter),
        KeyCode::Esc => Some(TopKey::Escape),
        KeyCode::Backspace => Some(TopKey::Backspace),
        KeyCode::Up => Some(TopKey::Up),
        KeyCode::Down => Some(TopKey::Down),
        KeyCode::Left => Some(TopKey::Left),
        KeyCode::Right => Some(TopKey::Right),
        KeyCode::PageUp => Some(TopKey::PageUp),
        KeyCode::PageDown => Some(TopKey::PageDown),
        KeyCode::Home => Some(TopKey::Home),
        KeyCode::End => Some(TopKey::End),
        _ => None,
    }
}
