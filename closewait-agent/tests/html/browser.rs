//! The page in a headless Chromium, through the DevTools protocol on a pipe.
//!
//! `.ci/packages browser` installs the browser, and `cargo xtask test` calls it. CI sets `CLOSEWAIT_REQUIRE_BROWSER`: then a
//! missing browser is a failure. Without that variable the tests say that they did not run. With `CLOSEWAIT_SCREENSHOTS=DIR` they
//! write a PNG of each page.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::fixture::{empty, hostile, incident, largest, page};

/// Programs that speak the protocol, the smallest first. A `chromium` of Ubuntu is a snap, which cannot read files of others.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "google-chrome", "google-chrome-stable", "chromium"];
/// Maximum wait for an answer of the browser.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Sizes of the window: a screen and a telephone.
const SIZES: [(u32, u32); 2] = [(1280, 900), (400, 800)];

/// Running browser with one tab.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    next: u64,
    /// Events of the tab since the last call of [`Browser::load`].
    events: Vec<Value>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _unused = self.child.kill();
        let _unused = self.child.wait();
    }
}

impl Browser {
    /// Starts the browser; `None` if there is none.
    fn start() -> Option<Self> {
        let program = BROWSERS.iter().find_map(|name| {
            env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
        });
        let Some(program) = program else {
            assert!(
                env::var_os("CLOSEWAIT_REQUIRE_BROWSER").is_none(),
                "none of {BROWSERS:?} is in PATH\nhint: run .ci/packages browser"
            );
            // Written past the capture of libtest, so that it is seen.
            let _unused = writeln!(
                std::io::stderr(),
                "SKIPPED: no browser, so the HTML page was not opened in one; run .ci/packages browser"
            );
            return None;
        };
        // The protocol uses the descriptors 3 and 4. No proxy answers at the address, so that no request leaves the machine.
        let script = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            "--proxy-server=127.0.0.1:9",
            "about:blank",
        ];
        let profile = folder().join("profile");
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for message in BufReader::new(from).split(0) {
                let Ok(message) = message else { break };
                let message = serde_json::from_slice(&message).expect("the browser writes JSON");
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut browser = Self { child, to, from: receiver, session: None, next: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", target);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Calls a method and returns its result.
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser reads");
        loop {
            let answer = self.from.recv_timeout(ANSWER_TIMEOUT).expect("the browser answers");
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// Loads a page and waits until it is complete.
    fn load(&mut self, file: &Path) {
        self.events.clear();
        self.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.from.recv_timeout(ANSWER_TIMEOUT).expect("the page loads");
            self.events.push(event);
        }
    }

    /// Evaluates an expression in the page.
    fn evaluate(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{result}");
        result["result"]["value"].clone()
    }

    /// Asserts that the page has said nothing, asked for nothing but itself, and opened no dialog.
    fn assert_quiet(&self, what: &str) {
        let mut requests = 0;
        for event in &self.events {
            let method = event["method"].as_str().unwrap_or_default();
            match method {
                "Network.requestWillBeSent" => requests += 1,
                "Runtime.consoleAPICalled"
                | "Runtime.exceptionThrown"
                | "Log.entryAdded"
                | "Page.javascriptDialogOpening"
                | "Page.windowOpen"
                | "Page.frameAttached" => panic!("{what}: {event}"),
                _ => {}
            }
        }
        assert_eq!(requests, 1, "{what}: the page itself is the only request");
    }

    fn set_view(&mut self, (width, height): (u32, u32), scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }
}

/// Returns the folder of this test's files.
fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("html-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

/// Returns problems of the layout: a page wider than its window, labels over each other, text with too little contrast or cut off.
const LAYOUT: &str = r#"(() => {
  const problems = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) problems.push(`the page is ${document.documentElement.scrollWidth} wide`);
  const shown = box => box.width > 0 && box.height > 0;
  for (const picture of document.querySelectorAll("figure > svg")) {
    const frame = picture.getBoundingClientRect();
    const labels = [...picture.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    labels.filter(([, box]) => shown(box)).forEach(([name, box], at, all) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        problems.push(`"${name}" is outside of its picture`);
      for (const [other, next] of all.slice(at + 1))
        if (box.left < next.right - 1 && next.left < box.right - 1 && box.top < next.bottom - 2 && next.top < box.bottom - 2)
          problems.push(`"${name}" overlaps "${other}"`);
    });
  }
  const channels = color => color.match(/[\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = channels(color).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, title, desc") || !element.checkVisibility()) continue;
    let paper = element;
    while (paper && channels(getComputedStyle(paper).backgroundColor)[3] === 0) paper = paper.parentElement;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [low, high] = [luminance(ink), luminance(getComputedStyle(paper ?? document.body).backgroundColor)].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 4.5) problems.push(`"${walker.currentNode.data}" has too little contrast: ${ink}`);
  }
  return problems;
})()"#;

#[test]
fn a_browser_shows_the_pages_without_a_message_a_request_or_an_overlap() {
    let Some(mut browser) = Browser::start() else { return };
    let screenshots = env::var_os("CLOSEWAIT_SCREENSHOTS").map(PathBuf::from);
    let pages = [("empty", empty()), ("incident", incident()), ("hostile", hostile()), ("largest", largest())];
    for (name, report) in pages {
        let file = folder().join(format!("{name}.html"));
        fs::write(&file, page(&report)).unwrap();
        for (size, scheme) in SIZES.into_iter().flat_map(|size| [(size, "light"), (size, "dark")]) {
            let what = format!("{name}-{}-{scheme}", size.0);
            browser.set_view(size, scheme);
            browser.load(&file);
            browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })");
            let problems = browser.evaluate(LAYOUT);
            assert_eq!(problems, json!([]), "{what}");
            let title = browser.evaluate("document.title");
            assert!(title.as_str().is_some_and(|title| title.starts_with("CLOSE_WAIT report of ")), "{what}: {title}");
            let data = browser.evaluate("JSON.parse(document.getElementById('report').textContent).groups.length > 0");
            assert_eq!(data, name != "empty", "{what}");
            assert_eq!(
                browser.evaluate("getComputedStyle(document.body).maxWidth"),
                "1088px",
                "{what}: the style sheet is in use"
            );
            browser.assert_quiet(&what);
            if let Some(folder) = &screenshots {
                let picture = browser.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
                fs::create_dir_all(folder).unwrap();
                fs::write(folder.join(format!("{what}.png")), decode(picture["data"].as_str().unwrap())).unwrap();
            }
        }
    }
}

#[test]
fn the_page_copies_a_command_prints_and_is_complete_without_scripts() {
    let Some(mut browser) = Browser::start() else { return };
    let file = folder().join("actions.html");
    fs::write(&file, page(&incident())).unwrap();
    browser.set_view(SIZES[0], "dark");
    browser.load(&file);
    let press = "(async () => { const button = document.querySelector('.command button'); if (button.hidden) return 'hidden'; \
                 button.click(); await new Promise(done => setTimeout(done, 300)); \
                 return [button.textContent, getSelection().toString()]; })()";
    let pressed = browser.evaluate(press);
    let (label, selected) = (pressed[0].as_str(), pressed[1].as_str());
    assert!(
        label == Some("Copied") || (label == Some("Selected") && selected == Some("kill -QUIT 23415")),
        "{pressed}"
    );
    browser.assert_quiet("copy");

    let printed =
        browser.call("Page.printToPDF", json!({ "printBackground": true, "paperWidth": 8.27, "paperHeight": 11.69 }));
    let printed = decode(printed["data"].as_str().unwrap());
    let pages = String::from_utf8_lossy(&printed).matches("/Type /Page\n").count();
    assert!((1..=6).contains(&pages), "{pages} pages of paper");
    if let Some(folder) = env::var_os("CLOSEWAIT_SCREENSHOTS").map(PathBuf::from) {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("incident.pdf"), printed).unwrap();
    }

    let text = "document.querySelector('main').innerText";
    let with = browser.evaluate(text);
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    browser.load(&file);
    let without = browser.evaluate(text);
    let lines = |text: &Value| {
        text.as_str().unwrap().lines().filter(|line| *line != "Copy").map(str::to_owned).collect::<Vec<_>>()
    };
    let selected = |line: &String| line != "Copied" && line != "Selected";
    assert_eq!(
        lines(&without),
        lines(&with).into_iter().filter(selected).collect::<Vec<_>>(),
        "only the buttons need scripts"
    );
    assert_eq!(browser.evaluate("document.querySelector('.command button').checkVisibility()"), false);
    browser.assert_quiet("without scripts");
}

/// Decodes base64 by RFC 4648.
fn decode(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for part in text.trim_end_matches('=').as_bytes().chunks(4) {
        let number =
            (0..4).fold(0_u32, |number, at| number << 6 | part.get(at).map_or(0, |byte| u32::from(digit(*byte))));
        bytes.extend(number.to_be_bytes().into_iter().skip(1).take(part.len() - 1));
    }
    bytes
}
