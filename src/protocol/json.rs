//! Writes a part of a parsed document back as compact JSON, for the columns that keep JSON whole.

use std::io::Write as _;

use simd_json::{Node, StaticNode};

use super::reject::{Reason, Rejection};

/// Objects up to this many keys are searched for a double by comparing all pairs, larger ones by sorting.
const PAIRWISE_KEYS: usize = 16;

/// The index of the node after the value at `at`, whatever that value holds.
pub(super) fn after(nodes: &[Node<'_>], at: usize) -> usize {
    match nodes[at] {
        Node::Object { count, .. } | Node::Array { count, .. } => at + 1 + count,
        Node::String(_) | Node::Static(_) => at + 1,
    }
}

/// The members of the object at `at`, as (key, index of its value).
pub(super) fn members<'t, 'i>(nodes: &'t [Node<'i>], at: usize) -> impl Iterator<Item = (&'i str, usize)> + use<'t, 'i> {
    let left = if let Node::Object { len, .. } = nodes[at] { len } else { 0 };
    let mut next = at + 1;
    (0..left).map(move |_| {
        let Node::String(key) = nodes[next] else {
            unreachable!("a tape's object alternates keys and values")
        };
        let value = next + 1;
        next = after(nodes, value);
        (key, value)
    })
}

/// Appends the value at `at` to `out`. The depth is bounded by the parser that made the tape.
///
/// # Errors
/// [`Reason::DuplicateKey`] and [`Reason::NulCharacter`].
pub(super) fn write_value(nodes: &[Node<'_>], at: usize, out: &mut Vec<u8>) -> Result<(), Rejection> {
    match nodes[at] {
        Node::Static(StaticNode::Null) => out.extend_from_slice(b"null"),
        Node::Static(StaticNode::Bool(value)) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Node::Static(StaticNode::I64(value)) => write_display(out, value),
        Node::Static(StaticNode::U64(value)) => write_display(out, value),
        Node::Static(StaticNode::F64(value)) => {
            finite(value)?;
            write!(out, "{value:?}").expect("a Vec takes every write");
        }
        Node::String(text) => write_text(text, out)?,
        Node::Array { len, .. } => {
            out.push(b'[');
            let mut next = at + 1;
            for index in 0..len {
                if index > 0 {
                    out.push(b',');
                }
                write_value(nodes, next, out)?;
                next = after(nodes, next);
            }
            out.push(b']');
        }
        Node::Object { .. } => {
            refuse_double_keys(nodes, at)?;
            out.push(b'{');
            for (index, (key, value)) in members(nodes, at).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(key, out)?;
                out.push(b':');
                write_value(nodes, value, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Appends `text` as a JSON string.
///
/// # Errors
/// [`Reason::NulCharacter`].
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), Rejection> {
    out.push(b'"');
    let mut clean_from = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[clean_from..index]);
        clean_from = index + 1;
        match byte {
            0 => {
                return Err(Rejection::new(
                    Reason::NulCharacter,
                    "a text holds \\u0000, which PostgreSQL cannot store",
                ));
            }
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => write!(out, "\\u{byte:04x}").expect("a Vec takes every write"),
        }
    }
    out.extend_from_slice(&text.as_bytes()[clean_from..]);
    out.push(b'"');
    Ok(())
}

/// Passes on what a double can hold.
///
/// # Errors
/// [`Reason::NumberOutOfRange`].
pub(super) fn finite(value: f64) -> Result<f64, Rejection> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Rejection::new(
            Reason::NumberOutOfRange,
            "a number is beyond the range of a double (about 1.8e308)",
        ))
    }
}

/// The refusal of a key that stands twice in one object.
pub(super) fn duplicate_key(key: &str) -> Rejection {
    let short: String = key.chars().take(64).collect();
    Rejection::new(Reason::DuplicateKey, format!("the key {short:?} stands twice; each may stand once"))
}

fn refuse_double_keys(nodes: &[Node<'_>], at: usize) -> Result<(), Rejection> {
    let Node::Object { len, .. } = nodes[at] else { return Ok(()) };
    if len <= PAIRWISE_KEYS {
        let double = members(nodes, at)
            .enumerate()
            .find(|(index, (key, _))| members(nodes, at).take(*index).any(|(earlier, _)| earlier == *key));
        return double.map_or(Ok(()), |(_, (key, _))| Err(duplicate_key(key)));
    }
    let mut keys: Vec<&str> = members(nodes, at).map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.windows(2)
        .find(|pair| pair[0] == pair[1])
        .map_or(Ok(()), |pair| Err(duplicate_key(pair[0])))
}

fn write_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("a Vec takes every write");
}
