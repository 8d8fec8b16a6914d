//! The pages of `docs` and the README: their commands are run, and what they name is there.
//!
//! | module | is about |
//! | --- | --- |
//! | [`page`] | a page, taken apart: blocks, code in the text, links, headings |
//! | [`stage`] | the world in which the blocks of a page run |
//! | [`blocks`] | every block in order, with the exit code and the output that the page tells |
//! | [`names`] | commands, flags, keys, metrics, paths and links of the pages |

mod blocks;
mod names;
mod page;
mod stage;
