//! The code of the guides in `docs/`, so that what they tell people to run is run.

use std::{fs, path::Path};

/// A block of code between two fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its language.
    pub language: String,
    /// The name that the test knows it by: of a comment `<!-- run: NAME -->` right before it.
    pub name: Option<String>,
    /// What is in it.
    pub text: String,
}

/// The blocks of a file, in order; its path is from the repository's root.
pub fn blocks(file: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut name = None;
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, Some(language)) => {
                open = Some(Block {
                    language: language.trim().to_owned(),
                    name: name.take(),
                    text: String::new(),
                });
            }
            (None, None) => {
                let named = line.trim().strip_prefix("<!-- run: ");
                name = match named.and_then(|rest| rest.strip_suffix(" -->")) {
                    Some(named) => Some(named.to_owned()),
                    None if line.trim().is_empty() => name,
                    None => None,
                };
            }
        }
    }
    assert!(open.is_none(), "{file}: a block does not end");
    blocks
}

/// The one block of that name in the file.
pub fn block(file: &str, name: &str) -> String {
    let mut named = blocks(file)
        .into_iter()
        .filter(|block| block.name.as_deref() == Some(name));
    let found = named
        .next()
        .unwrap_or_else(|| panic!("{file} has no block {name}"));
    assert!(named.next().is_none(), "{file} has {name} twice");
    found.text
}
