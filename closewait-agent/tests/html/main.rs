//! HTML page of `closewait report`: its text, its size, hostile names, its colors, and how a browser shows it.

mod browser;
mod fixture;
mod picture;
mod static_page;
