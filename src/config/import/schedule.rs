//! The `.env.local` of the slave-to-production sync.

use super::draft::{Draft, list, quoted};
use super::{BLANK, Constants, value};

pub(super) fn from(variables: &Constants) -> Draft {
    let mut draft = Draft::of("slave to production");
    let project = value(variables, "NEXT_PUBLIC_SUPABASE_URL")
        .and_then(|url| url.strip_prefix("https://"))
        .and_then(|rest| rest.split_once(".supabase."));
    let host = project.map_or_else(|| BLANK.to_owned(), |(project, _)| format!("db.{project}.supabase.co"));
    for (name, schema) in [("slave", BLANK), ("prod", "public")] {
        let url = format!("postgres://postgres:{BLANK}@{host}:5432/postgres?schema={schema}");
        draft.databases.push(format!("{name}: {{ url: {} }}", quoted(&url)));
    }
    draft.notes.push(
        "the old system went through a REST address with SUPABASE_SERVICE_ROLE_KEY; rowferry connects to the database: \
         its password stands under the project's database settings"
            .to_owned(),
    );
    for line in [
        "slave-to-prod:",
        "  source: slave",
        "  target: prod",
        "  direction: push",
        "  mode: full                   # rows that only production has stay, as before",
        "  create: false",
        "  schedule: \"0 */6 * * *\"",
        "  retries: 2",
        "  job_timeout: 30s",
        "  tables:",
        "    # key: the columns that tell rows apart, where they are not the primary key; rename: those with another name there",
        &format!("    - {{ source: {BLANK} }}"),
        &format!(
            "    #- {{ source: {BLANK}, target: {BLANK}, key: [tool, vendor], rename: {{ old_name: new_name }}, where: \"vendor is not null\" }}"
        ),
    ] {
        draft.syncs.push(line.to_owned());
    }
    let keys =
        ["QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY"].map(|name| value(variables, name).unwrap_or(BLANK));
    let public = value(variables, "NEXT_PUBLIC_APP_URL").map_or_else(|| format!("https://{BLANK}"), str::to_owned);
    draft.seeds.push("slave_to_prod:".to_owned());
    draft.seeds.push("  sync: slave-to-prod".to_owned());
    draft.seeds.push(format!("  public_url: {}", quoted(&public)));
    draft.seeds.push(format!("  signing_keys: {}", list(&keys)));
    let schedule = "/api/background/sync/schedule";
    draft.replace("npm run setup-slave-sync", "rowferry serve: the schedule stands in the file");
    draft.replace(format!("POST {schedule} {{\"action\": \"create\"}}"), "schedule: \"0 */6 * * *\" in the file");
    for (action, command) in [
        ("pause", "rowferry schedules pause slave-to-prod"),
        ("resume", "rowferry schedules resume slave-to-prod"),
        ("delete", "rowferry schedules delete slave-to-prod"),
        ("trigger-manual", "rowferry schedules trigger slave-to-prod"),
    ] {
        draft.replace(format!("POST {schedule} {{\"action\": \"{action}\"}}"), command);
    }
    draft.replace(format!("GET {schedule}"), "rowferry schedules list");
    draft.replace(
        "POST /api/background/sync/slave-to-prod",
        "the same URL of rowferry serve, or rowferry sync slave-to-prod",
    );
    draft.replace(
        "GET /api/background/sync/slave-to-prod",
        "rowferry sync slave-to-prod (a GET changes nothing unless seeds.slave_to_prod.manual_get)",
    );
    draft
}
