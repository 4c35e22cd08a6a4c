//! Prints tables for people, JSON and YAML for programs; for all subcommands.

use std::io::{self, Write};

use serde::Serialize;

/// How a value is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Text,
    /// A stable shape.
    Json,
    /// The same as YAML.
    Yaml,
}

/// `-o`, as every subcommand has it.
#[derive(Debug, clap::Args)]
pub(super) struct OutputArg {
    /// How the answer is printed; the shape of json and yaml is stable.
    #[arg(
        short,
        long = "output",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub(super) output: Format,
}

/// One line of a table.
pub(super) trait Row {
    /// Titles of the columns.
    const TITLES: &'static [&'static str];
    /// One text per column.
    fn cells(&self) -> Vec<String>;
}

/// Prints rows: a table, or the whole list as JSON or YAML. `what`: names them when
/// there is none.
pub(super) fn rows<T: Row + Serialize>(
    format: Format,
    what: &str,
    rows: &[T],
) -> anyhow::Result<()> {
    match format {
        Format::Text if rows.is_empty() => print(&format!("no {what}\n")),
        Format::Text => print(&table(rows)),
        Format::Json | Format::Yaml => value(format, &rows, String::new),
    }
}

/// Prints one value; `text` makes the form for people.
pub(super) fn value(
    format: Format,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Text => text(),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        // Through JSON, so that both have one shape.
        Format::Yaml => serde_yaml::to_string(&serde_json::to_value(value)?)?,
    };
    print(&text)
}

/// Writes to standard output.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The reader of our output went away (`| head`): nothing is wrong.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Columns two blanks apart, without blanks at the end of a line; empty cells show `-`.
pub(super) fn table<T: Row>(rows: &[T]) -> String {
    let titles = T::TITLES.iter().map(|title| (*title).to_owned()).collect();
    let mut lines: Vec<Vec<String>> = vec![titles];
    for row in rows {
        let cells = row.cells().into_iter().map(|cell| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell
            }
        });
        lines.push(cells.collect());
    }
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..T::TITLES.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out.push_str(padded.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const TITLES: &'static [&'static str] = &["NAME", "VALUE"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_owned()]
        }
    }

    #[test]
    fn tables_are_aligned_and_have_no_trailing_blanks() {
        let rows = [Pair("a", "1"), Pair("längst", ""), Pair("b", "long value")];
        assert_eq!(
            table(&rows),
            "NAME    VALUE\na       1\nlängst  -\nb       long value\n"
        );
    }
}
