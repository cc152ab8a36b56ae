//! The GitHub workflow has every step of `.ci/run`.

use super::{Files, Problem};

const SCRIPT: &str = ".ci/run";
const WORKFLOW: &str = ".github/workflows/ci.yml";

/// Reports each `step COMMAND` of the script that is no `run: COMMAND` of the workflow.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let text = |file| files.get(file).map_or("", String::as_str);
    let runs: Vec<String> = text(WORKFLOW).lines().filter_map(|line| command(line, "run: ")).collect();
    let steps = (1..).zip(text(SCRIPT).lines());
    let steps = steps.filter_map(|(line, content)| Some((line, command(content, "step ")?)));
    steps
        .filter(|(_line, step)| !runs.contains(step))
        .map(|(line, step)| {
            let what = format!("`run: {step}` is not in {WORKFLOW}");
            let why = "the workflow and the script are the same checks";
            Problem::new(SCRIPT, line, what, why, "add the step to one of its jobs")
        })
        .collect()
}

/// The command after `keyword`, without its pipe.
fn command(line: &str, keyword: &str) -> Option<String> {
    let line = line.trim_start();
    let command = line.strip_prefix("- ").unwrap_or(line).strip_prefix(keyword)?;
    Some(command.split(" 2>&1").next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_the_workflow_lacks_is_named() {
        let script = "step() {\n}\nstep cargo fmt\nstep env A=\"b\" cargo doc\nstep cargo test 2>&1 | tee log\n";
        let workflow = "    steps:\n      - run: cargo fmt\n      - name: doc\n        run: env A=\"b\" cargo doc\n";
        let files = [(SCRIPT, script), (WORKFLOW, workflow)].map(|(file, text)| (file.to_owned(), text.to_owned()));
        let found = check(&Files::from(files));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].line, 5);
        assert!(found[0].what.starts_with("`run: cargo test`"), "{found:?}");
    }
}
