//! A letter's words as its template gives them: the subject on the first line, then paragraphs with
//! blank lines between them.

use minijinja::{Value, context};

/// Around what [`button`] and [`code`] hand through the template; no value has these characters.
const START: char = '\u{2}';
const BETWEEN: char = '\u{1f}';
const END: char = '\u{3}';

/// A paragraph.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    Text(String),
    Button { label: String, link: String },
    Code(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) subject: String,
    blocks: Vec<Block>,
}

/// `{{ button("Confirm this address", link) }}`
pub(super) fn button(label: &str, link: &str) -> String {
    format!("{START}{label}{BETWEEN}{link}{END}")
}

/// `{{ code(digits) }}`: eight digits are shown in two groups, which people type with fewer
/// mistakes.
pub(super) fn code(digits: &str) -> String {
    match digits.split_at_checked(4) {
        Some((first, last)) if last.len() == 4 => format!("{START}{first} {last}{END}"),
        _ => format!("{START}{digits}{END}"),
    }
}

/// A value as it may stand in a letter, on one line: a break would begin a paragraph, and in the
/// subject another header.
pub(super) fn one_line(value: &str) -> String {
    value.replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), " ")
}

impl Document {
    /// The error says on which line of what was rendered something is wrong, and what.
    pub(super) fn parse(rendered: &str) -> Result<Self, (usize, &'static str)> {
        let mut lines = rendered.lines();
        let first = lines.next().unwrap_or_default();
        let subject = first.strip_prefix("Subject:").ok_or((
            1,
            "the first line has to be the subject, such as `Subject: Welcome to {{ service }}`",
        ))?;
        let subject = subject.trim().to_owned();
        if subject.is_empty() {
            return Err((1, "the subject is empty: write it behind `Subject:`"));
        }
        if subject != one_line(&subject) {
            return Err((
                1,
                "the subject has a line break or another control character: remove it",
            ));
        }
        let mut blocks = Vec::new();
        if !lines.next().unwrap_or_default().trim().is_empty() {
            return Err((
                2,
                "the subject has a line break, or no blank line behind it: a subject is one line",
            ));
        }
        let mut paragraph = Vec::new();
        for line in lines.map(str::trim).chain([""]) {
            if !line.is_empty() {
                paragraph.push(line);
            } else if !paragraph.is_empty() {
                push(&paragraph.join(" "), &mut blocks);
                paragraph.clear();
            }
        }
        if blocks.is_empty() {
            return Err((1, "there is nothing behind the subject: write the letter's words there"));
        }
        Ok(Self { subject, blocks })
    }

    /// A paragraph is one line, however long: a mail program breaks lines where its window ends,
    /// and ours, broken before that, would be short and long by turns. A link has a line of
    /// its own.
    pub(super) fn text(&self) -> String {
        let paragraphs = self.blocks.iter().map(|block| match block {
            Block::Text(text) => text.clone(),
            Block::Button { label, link } => format!("{label}:\n\n{link}"),
            Block::Code(code) => code.clone(),
        });
        paragraphs.collect::<Vec<_>>().join("\n\n")
    }

    /// For `layout.html`.
    pub(super) fn blocks(&self) -> Value {
        self.blocks
            .iter()
            .map(|block| match block {
                Block::Text(text) => context! { text },
                Block::Button { label, link } => context! { label, link },
                Block::Code(code) => context! { code },
            })
            .collect()
    }
}

/// A paragraph, cut where a button or a code stands in it.
fn push(paragraph: &str, blocks: &mut Vec<Block>) {
    let push_text = |text: &str, blocks: &mut Vec<Block>| {
        if !text.trim().is_empty() {
            blocks.push(Block::Text(text.trim().to_owned()));
        }
    };
    let mut rest = paragraph;
    while let Some((before, marked)) = rest.split_once(START) {
        let (marked, after) = marked.split_once(END).unwrap_or((marked, ""));
        push_text(before, blocks);
        blocks.push(match marked.split_once(BETWEEN) {
            Some((label, link)) => Block::Button { label: label.to_owned(), link: link.to_owned() },
            None => Block::Code(marked.to_owned()),
        });
        rest = after;
    }
    push_text(rest, blocks);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &str) -> Block {
        Block::Text(words.to_owned())
    }

    #[test]
    fn a_paragraph_is_what_stands_between_blank_lines() {
        let rendered = "Subject: Hello \n\n\nOne\n two.\n\n \n\nThree.";
        let document = Document::parse(rendered).expect("a letter");
        assert_eq!(document.subject, "Hello");
        assert_eq!(document.blocks, [text("One two."), text("Three.")]);
        assert_eq!(document.text(), "One two.\n\nThree.");
    }

    #[test]
    fn a_button_and_a_code_are_paragraphs_wherever_they_stand() {
        let (button, code) = (button("Go", "https://a.example/?a=1"), code("12345678"));
        let rendered = format!("Subject: x\n\nPress {button} or type\n\n{code}");
        let document = Document::parse(&rendered).expect("a letter");
        assert_eq!(
            document.text(),
            "Press\n\nGo:\n\nhttps://a.example/?a=1\n\nor type\n\n1234 5678"
        );
        assert_eq!(super::code("123"), format!("{START}123{END}"));
    }

    #[test]
    fn what_is_no_letter_is_told_by_its_line() {
        for (rendered, line, words) in [
            ("", 1, "first line"),
            ("Hello\n\nthere", 1, "first line"),
            ("\nSubject: x\n\ny", 1, "first line"),
            ("Subject: \n\nx", 1, "subject is empty"),
            ("Subject: a\u{7}b\n\nx", 1, "control character"),
            ("Subject: a\nb\n\nx", 2, "line break"),
            ("Subject: a\n\n \n", 1, "nothing behind"),
        ] {
            let (found, why) = Document::parse(rendered).expect_err(rendered);
            assert!(found == line && why.contains(words), "{rendered:?}: {found} {why}");
        }
    }

    #[test]
    fn a_value_is_one_line_and_no_mark() {
        assert_eq!(one_line("a\r\nBcc: b\u{2}\u{1f}c\u{2028}"), "a  Bcc: b  c ");
    }
}
