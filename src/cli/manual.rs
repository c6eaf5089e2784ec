//! The manual page: one of all commands, so that it can be searched.

use std::io::{Result, Write as _};

use clap::Command;
use clap_mangen::Man;

/// The page in the form of `man`.
pub(super) fn page(mut program: Command) -> Result<Vec<u8>> {
    program.build();
    let mut page = Vec::new();
    Man::new(program.clone()).render(&mut page)?;
    commands(&program, &mut page)?;
    Ok(page)
}

/// A section for each command below this one, its own parts as subsections. What holds for all of them is told above.
fn commands(above: &Command, page: &mut Vec<u8>) -> Result<()> {
    for command in above.get_subcommands().filter(|command| command.get_name() != "help") {
        let own = command.clone().mut_args(|arg| {
            let hidden =
                arg.is_hide_set() || arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version");
            arg.hide(hidden)
        });
        let name = command.get_bin_name().unwrap_or(command.get_name());
        writeln!(page, ".SH {}", name.to_uppercase().replace('-', "\\-"))?;
        let (man, mut parts) = (Man::new(own.clone()), Vec::new());
        man.render_synopsis_section(&mut parts)?;
        man.render_description_section(&mut parts)?;
        if own.get_arguments().any(|arg| !arg.is_hide_set()) {
            man.render_options_section(&mut parts)?;
        }
        // How an apostrophe is written is told once, at the top.
        for line in String::from_utf8_lossy(&parts)
            .lines()
            .filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "))
        {
            match line.strip_prefix(".SH ") {
                Some(title) => writeln!(page, ".SS {title}")?,
                None => writeln!(page, "{line}")?,
            }
        }
        commands(command, page)?;
    }
    Ok(())
}
