//! Imports go down only: this file holds the drawing of the crate and reads every `use` and path against it.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, lowest first. A room imports from lower levels only, never from another room of its own.
const LEVELS: [&[&str]; 5] = [
    &["error", "pages", "rng"],
    &["camera", "geometry", "sh", "checkpoint", "exchange"],
    &["ops"],
    &["data", "foam"],
    &["train"],
];

/// What `lib.rs` re-exports at the root, and the room it comes from.
const ROOT_NAMES: [(&str, &str); 2] = [("Error", "error"), ("Result", "error")];

/// A library computes and returns; whoever calls it prints.
const PRINTING: [&str; 5] = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// `source` with comments and the contents of literals replaced by blanks; every line keeps its number.
fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let starts = |at: usize, text: &str| text.chars().enumerate().all(|(k, c)| chars.get(at + k) == Some(&c));
    let find = |from: usize, text: &str| (from..chars.len()).find(|&at| starts(at, text)).unwrap_or(chars.len());
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let raw_hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
        let end = if starts(at, "//") {
            find(at, "\n")
        } else if starts(at, "/*") {
            let (mut depth, mut end) = (1, at + 2);
            while depth > 0 && end < chars.len() {
                let step = if starts(end, "*/") {
                    depth -= 1;
                    2
                } else if starts(end, "/*") {
                    depth += 1;
                    2
                } else {
                    1
                };
                end += step;
            }
            end
        } else if chars[at] == 'r' && chars.get(at + 1 + raw_hashes) == Some(&'"') && !follows_name(&chars, at) {
            let close = format!("\"{}", "#".repeat(raw_hashes));
            find(at + 2 + raw_hashes, &close) + close.len()
        } else if chars[at] == '"' {
            let mut end = at + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            end + 1
        } else if chars[at] == '\'' && (starts(at + 1, "\\") || chars.get(at + 2) == Some(&'\'')) {
            // A character literal, not a lifetime. An escaped one ends at the next quote that is not the escaped one.
            if starts(at + 1, "\\") { find(at + 3, "'") + 1 } else { at + 3 }
        } else {
            code.push(chars[at]);
            at += 1;
            continue;
        };
        let end = end.min(chars.len());
        code.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn follows_name(chars: &[char], at: usize) -> bool {
    at > 0 && is_name(chars[at - 1])
}

/// The first name of each path that `path` begins: one, or those of a group in braces.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|&c| is_name(c)).collect::<String>();
    let Some(group) = path.trim_start().strip_prefix('{') else {
        return vec![name(path)];
    };
    let (mut depth, mut item, mut heads) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => heads.push(name(&std::mem::take(&mut item))),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    heads.push(name(&item));
    heads.retain(|head| !head.is_empty());
    heads
}

/// Every name of the crate's root that `code` refers to, with its line: `crate::name`, and as many `super::` as lead
/// from a module `depth` levels down to the root.
fn root_names(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for keyword in ["crate", "super"] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].trim_end();
            let starts_path = !code[..at].ends_with(is_name) && !before.ends_with("::");
            let mut rest = &code[at..];
            let mut steps = 0;
            while let Some(tail) = rest.strip_prefix(keyword).and_then(|tail| tail.trim_start().strip_prefix("::")) {
                rest = tail.trim_start();
                steps += 1;
            }
            if !starts_path || steps == 0 || (keyword == "super" && steps < depth) {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let names = heads(rest).into_iter();
            // `super::` may lead to a module inside the file: only rooms count.
            let names = names.filter(|name| keyword == "crate" || level(name).is_some());
            found.extend(names.map(|name| (line, name)));
        }
    }
    found
}

/// What is wrong with one file of `src/`, given by its path below it.
fn problems(path: &Path, source: &str) -> Vec<String> {
    let parts: Vec<String> = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let room = &parts[0];
    let code = code_only(source);
    let mut problems: Vec<String> = (1..)
        .zip(code.lines())
        .flat_map(|(number, line)| {
            PRINTING.iter().filter(move |call| calls(line, call)).map(move |call| (number, call))
        })
        .map(|(number, call)| format!("src/{}:{number}: {call} in the library", path.display()))
        .collect();
    if room == "lib" {
        return problems;
    }
    let Some(own) = level(room) else {
        problems.push(format!("src/{}: the room {room} is not in the table", path.display()));
        return problems;
    };
    let depth = parts.len() - usize::from(parts.last().is_some_and(|part| part == "mod"));
    for (line, name) in root_names(&code, depth) {
        let target = ROOT_NAMES.iter().find(|(root, _)| *root == name).map_or(name.as_str(), |(_, room)| room);
        let complaint = match level(target) {
            _ if target == room => continue,
            None => "which is not in the table".to_string(),
            Some(other) if other < own => continue,
            Some(other) => format!("level {own} from level {other}"),
        };
        problems.push(format!("src/{}:{line}: {room} imports {target}: {complaint}", path.display()));
    }
    problems
}

fn calls(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| !line[..at].ends_with(is_name))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn rust_files_below(folder: &str) -> (PathBuf, Vec<PathBuf>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    rust_files(&folder, &mut files);
    files.sort();
    (folder, files)
}

#[test]
fn imports_go_down_and_the_library_prints_nothing() {
    let (folder, files) = rust_files_below("src");
    assert!(files.len() > 30, "only {} files below {}", files.len(), folder.display());
    let problems: Vec<String> = files
        .iter()
        .flat_map(|file| problems(file.strip_prefix(&folder).unwrap(), &fs::read_to_string(file).unwrap()))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Examples and benches show what a user of the crate can do, with nothing that a user has not.
#[test]
fn examples_and_benches_use_the_public_crate_only() {
    let mut problems = Vec::new();
    for folder in ["examples", "benches"] {
        for file in rust_files_below(folder).1 {
            // What the examples share is theirs. Any other path counts: in the code, what is in quotes is blanked.
            let text = fs::read_to_string(&file).unwrap().replace("#[path = \"../support/mod.rs\"]", "");
            let code = code_only(&text);
            for way_in in ["#[path", "include!"] {
                if code.contains(way_in) {
                    problems.push(format!("{}: {way_in}", file.display()));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_checker_bites() {
    let bad = [
        ("ops/trace/mod.rs", "use crate::data::Dataset;"),
        ("ops/mod.rs", "use crate::{rng::Rng, train::{Trainer, TrainConfig}};"),
        ("ops/mod.rs", "use crate::{\n    // a comment\n    rng::{Rng, Stream},\n    foam::Foam,\n};"),
        ("foam/mod.rs", "fn f() { crate::data::load(); }"),
        ("data/dataset.rs", "use super::super::foam::Foam;"),
        ("data/mod.rs", "use super::foam;"),
        ("camera.rs", "use crate::geometry::Adjacency;"),
        ("rng.rs", "use crate :: ops;"),
        ("error.rs", "pub use crate::kitchen::Sink;"),
        ("attic.rs", ""),
        ("train/mod.rs", "fn f() { println!(\"{}\", 1); }"),
        ("lib.rs", "fn f(x: u32) { dbg!(x); }"),
        ("sh.rs", "const QUOTE: char = '\"'; use crate::ops; const OTHER: char = '\"';"),
        ("sh.rs", "const QUOTE: char = '\\''; use crate::ops; const OTHER: char = '\\'';"),
        ("sh.rs", "const TEXT: &str = r#\"a \" b\"#; use crate::ops; const OTHER: &str = \"\\\"\";"),
    ];
    for (path, source) in bad {
        assert_eq!(problems(Path::new(path), source).len(), 1, "{path}: {source}");
    }
    let good = [
        ("train/mod.rs", "use crate::{Error, Result, data::Dataset, foam::{self, Foam}, ops, rng::Rng};"),
        ("ops/trace/mod.rs", "//! See [`crate::train`].\n/* use crate::data; /* nested */ */ use crate::sh;"),
        ("ops/weighted_draw/cpu.rs", "pub(in crate::ops) const TEXT: &str = \"crate::data println!\";"),
        ("ops/trace/cpu.rs", "use super::super::batch; use super::walk; fn f<'a>(x: &'a str) -> &'a str { x }"),
        ("data/image.rs", "fn f() { my_println!(); let decrate::foam = 1; }"),
        ("lib.rs", "pub mod train; pub use crate::train::Trainer;"),
    ];
    for (path, source) in good {
        assert_eq!(problems(Path::new(path), source), Vec::<String>::new(), "{path}: {source}");
    }
}
