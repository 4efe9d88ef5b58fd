//! Changes to DER and PEM that keep most of their structure: a mutated certificate still looks like one.

use super::dice::Dice;

/// An element of DER, with its parts if it has any.
#[derive(Clone, Debug)]
pub(super) struct Node {
    tag: u8,
    content: Content,
    /// How many more bytes than necessary its length has.
    padding: usize,
}

#[derive(Clone, Debug)]
enum Content {
    Bytes(Vec<u8>),
    Parts(Vec<Node>),
    /// DER inside an OCTET STRING, or inside a BIT STRING after this byte.
    Wrapped(Option<u8>, Vec<Node>),
}

impl Node {
    /// The elements that `der` consists of; `None` if it is something else.
    fn all(mut der: &[u8], depth: usize) -> Option<Vec<Self>> {
        let mut nodes = Vec::new();
        while !der.is_empty() {
            let (&[tag, first], rest) = der.split_first_chunk()?;
            let (length, rest) = match first {
                0..=0x7f => (usize::from(first), rest),
                0x81..=0x83 => {
                    let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                    let length = bytes
                        .iter()
                        .fold(0, |all, byte| all << 8 | usize::from(*byte));
                    (length, rest)
                }
                _ => return None,
            };
            let (content, rest) = rest.split_at_checked(length)?;
            der = rest;
            nodes.push(Self {
                tag,
                content: Self::content(tag, content, depth),
                padding: 0,
            });
        }
        (depth < 16).then_some(nodes)
    }

    fn content(tag: u8, bytes: &[u8], depth: usize) -> Content {
        let inner = |bytes: &[u8]| Self::all(bytes, depth + 1).filter(|nodes| !nodes.is_empty());
        match (tag, bytes) {
            (0x04, bytes) => inner(bytes).map(|nodes| Content::Wrapped(None, nodes)),
            (0x03, [unused, bits @ ..]) => {
                inner(bits).map(|nodes| Content::Wrapped(Some(*unused), nodes))
            }
            (tag, bytes) if tag & 0x20 != 0 => Self::all(bytes, depth + 1).map(Content::Parts),
            _ => None,
        }
        .unwrap_or_else(|| Content::Bytes(bytes.to_vec()))
    }

    fn encode(&self, to: &mut Vec<u8>) {
        let content = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Parts(nodes) => encoded(nodes),
            Content::Wrapped(before, nodes) => {
                before.iter().copied().chain(encoded(nodes)).collect()
            }
        };
        to.push(self.tag);
        let length = content.len().to_be_bytes();
        let zeros = length.iter().take_while(|byte| **byte == 0).count();
        match content.len() {
            0..=0x7f if self.padding == 0 => to.push(length[7]),
            _ => {
                let bytes = &length[zeros.saturating_sub(self.padding).min(7)..];
                to.push(0x80 | u8::try_from(bytes.len()).unwrap());
                to.extend_from_slice(bytes);
            }
        }
        to.extend(content);
    }

    fn parts(&mut self) -> Option<&mut Vec<Self>> {
        match &mut self.content {
            Content::Bytes(_) => None,
            Content::Parts(nodes) | Content::Wrapped(_, nodes) => Some(nodes),
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        if !matches!(self.content, Content::Bytes(_)) {
            let bytes = match &self.content {
                Content::Parts(nodes) => encoded(nodes),
                Content::Wrapped(before, nodes) => {
                    before.iter().copied().chain(encoded(nodes)).collect()
                }
                Content::Bytes(_) => Vec::new(),
            };
            self.content = Content::Bytes(bytes);
        }
        match &mut self.content {
            Content::Bytes(bytes) => bytes,
            _ => unreachable!(),
        }
    }
}

fn encoded(nodes: &[Node]) -> Vec<u8> {
    let mut bytes = Vec::new();
    nodes.iter().for_each(|node| node.encode(&mut bytes));
    bytes
}

/// The lists of siblings in a tree, by their paths.
fn lists(nodes: &[Node], path: &[usize], found: &mut Vec<Vec<usize>>) {
    found.push(path.to_vec());
    for (at, node) in nodes.iter().enumerate() {
        if let Content::Parts(inner) | Content::Wrapped(_, inner) = &node.content {
            lists(inner, &[path, &[at]].concat(), found);
        }
    }
}

fn list<'a>(nodes: &'a mut Vec<Node>, path: &[usize]) -> &'a mut Vec<Node> {
    path.iter()
        .fold(nodes, |nodes, at| nodes[*at].parts().unwrap())
}

const TAGS: &[u8] = &[
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0a, 0x0c, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19,
    0x1a, 0x1b, 0x1c, 0x1e, 0x30, 0x31, 0x80, 0x81, 0x82, 0xa0, 0xa1, 0xa2, 0xa3, 0x24, 0x1f,
];

const TIMES: &[(u8, &str)] = &[
    (0x17, "250101000000Z"),
    (0x17, "2501010000Z"),
    (0x17, "250101000000+0100"),
    (0x17, "250101000000-0000"),
    (0x17, "250101000000+2400"),
    (0x17, "250101000000"),
    (0x17, "250101000000z"),
    (0x17, "251301000000Z"),
    (0x17, "250230000000Z"),
    (0x17, "240229000000Z"),
    (0x17, "250101240000Z"),
    (0x17, "250101006000Z"),
    (0x17, "250101000060Z"),
    (0x17, "491231235959Z"),
    (0x17, "500101000000Z"),
    (0x18, "20250101000000Z"),
    (0x18, "20250101000000.5Z"),
    (0x18, "20250101000000+0100"),
    (0x18, "202501010000Z"),
    (0x18, "20250101000000"),
    (0x18, "99991231235959Z"),
    (0x18, "00000101000000Z"),
    (0x18, "21250101000000Z"),
];

/// Changes `der` a little; if it is not DER, changes a byte of it.
pub(super) fn der(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let Some(mut nodes) = Node::all(bytes, 0) else {
        return bytes.to_vec();
    };
    for _ in 0..=dice.below(3) / 2 {
        let mut paths = Vec::new();
        lists(&nodes, &[], &mut paths);
        let path = dice.pick(&paths).clone();
        let siblings = list(&mut nodes, &path);
        if siblings.is_empty() {
            continue;
        }
        let at = dice.below(siblings.len());
        mutate(siblings, at, dice);
    }
    let mut der = encoded(&nodes);
    match dice.below(60) {
        0 => der.push(0),
        1 => der.truncate(der.len().saturating_sub(1)),
        _ => {}
    }
    der
}

fn mutate(siblings: &mut Vec<Node>, at: usize, dice: &mut Dice) {
    let is_boolean = siblings[at].tag == 0x01;
    let is_time = matches!(siblings[at].tag, 0x17 | 0x18);
    match dice.below(16) {
        0 => drop(siblings.remove(at)),
        1 => siblings.insert(at, siblings[at].clone()),
        2 => {
            let other = dice.below(siblings.len());
            siblings.swap(at, other);
        }
        3 | 4 => siblings[at].tag = *dice.pick(TAGS),
        5 => siblings[at].padding = 1 + dice.below(2),
        6 => siblings[at].bytes().clear(),
        7 => siblings.insert(
            at,
            Node {
                tag: 0x01,
                content: Content::Bytes(vec![*dice.pick(&[0, 1, 0xff])]),
                padding: 0,
            },
        ),
        8 => siblings.insert(
            at,
            Node {
                tag: *dice.pick(TAGS),
                content: Content::Bytes(Vec::new()),
                padding: 0,
            },
        ),
        9 => {
            let (tag, text) = *dice.pick(TIMES);
            siblings[at].tag = if is_time { tag } else { siblings[at].tag };
            if is_time {
                *siblings[at].bytes() = text.as_bytes().to_vec();
            }
        }
        10 if is_boolean => *siblings[at].bytes() = vec![*dice.pick(&[0, 1, 0x7f, 0xff])],
        11 => {
            let bytes = siblings[at].bytes();
            let place = dice.below(bytes.len() + 1);
            bytes.insert(place, *dice.pick(b"\0\x01\x7f\x80\xff*@ a"));
        }
        12 => {
            // The first byte: unused bits, the sign, the start of an identifier.
            let bytes = siblings[at].bytes();
            if let Some(first) = bytes.first_mut() {
                *first = *dice.pick(b"\0\x01\x02\x03\x07\x08\x7f\x80\xff");
            }
        }
        _ => {
            let bytes = siblings[at].bytes();
            if !bytes.is_empty() {
                let place = dice.below(bytes.len());
                bytes[place] ^= 1 << dice.below(8);
            }
        }
    }
}

/// Changes the text of a PEM file: framing, line ends, and text around the blocks.
pub(super) fn text(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(2) {
        let at = dice.below(bytes.len());
        let line = bytes[..at]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let next = bytes[at..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |newline| at + newline + 1);
        // Half of the changes are made at a BEGIN or an END line.
        let edges: Vec<usize> = (0..bytes.len())
            .filter(|at| bytes[*at..].starts_with(b"-----"))
            .collect();
        let edge = if edges.is_empty() {
            line
        } else {
            *dice.pick(&edges)
        };
        let put = |bytes: &mut Vec<u8>, at: usize, what: &[u8]| {
            drop(bytes.splice(at..at, what.iter().copied()))
        };
        match dice.below(18) {
            0 => bytes[at] = *dice.pick(b"\0\n\r\t -=A+/*\x80\xef\xbb\xbf"),
            1 => bytes.insert(at, *dice.pick(b"\0\n\r\t -=A+/*\x80")),
            2 => bytes.truncate(at + 1),
            3 => drop(bytes.drain(line..next)),
            4 => bytes.insert(line, *dice.pick(b"\n ")),
            5 => put(bytes, line, b"\xef\xbb\xbf"),
            6 => {
                let copy = bytes[line..next].to_vec();
                put(bytes, line, &copy);
            }
            7 => drop(bytes.splice(next - 1..next, b"\r\n".iter().copied())),
            8 => put(bytes, edge, b" "),
            9 => put(bytes, edge, b"\xc2\xa0"),
            10 => put(bytes, edge, b"\xef\xbb\xbf"),
            11 => put(bytes, edge, b"\""),
            12 => put(bytes, edge, b"\r"),
            13 => bytes
                .iter_mut()
                .filter(|byte| **byte == b'\n')
                .for_each(|byte| *byte = b'\r'),
            14 => drop(bytes.splice(next - 1..next, b"\r".iter().copied())),
            15 => drop(bytes.splice(next - 1..next, b" ".iter().copied())),
            16 => put(bytes, edge, b"text "),
            _ => put(bytes, edge, b"#"),
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
}
