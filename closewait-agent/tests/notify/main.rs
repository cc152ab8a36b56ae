//! Hooks that notify a service (`contrib/hooks/{alertmanager,pagerduty,slack-webhook}`): the real programs with events of recorded
//! incidents, against a local service that answers as the test says, and against Debian's Alertmanager.
//!
//! The programs need `/usr/bin/python3`, and one test needs `openssl`; `.ci/packages` installs both.

mod alertmanager;
mod events;
mod failures;
mod hook;
mod messages;
mod odd;
mod secrets;
