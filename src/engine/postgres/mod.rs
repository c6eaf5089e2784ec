//! postgres.
use super::*;
/// Opens.
pub async fn open(_url: &str, _options: &OpenOptions) -> Result<Nothing> {
    todo!()
}
/// x
pub struct Nothing;
#[async_trait]
impl Database for Nothing {
    fn label(&self) -> &str {
        todo!()
    }
    fn version(&self) -> &str {
        todo!()
    }
    fn abilities(&self) -> Abilities {
        todo!()
    }
    async fn tables(&self, _schema: Option<&str>) -> Result<Vec<TableName>> {
        todo!()
    }
    async fn describe(&self, _name: &TableName) -> Result<Option<Table>> {
        todo!()
    }
    fn map_column(&self, _table: &Table, _column: &ColumnDef) -> MappedColumn {
        todo!()
    }
    fn ddl(&self, _table: &Table) -> TableDdl {
        todo!()
    }
    fn misfits(&self, _column: &ColumnDef, _data: &Column) -> Vec<(usize, String)> {
        todo!()
    }
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        todo!()
    }
    async fn target(&self) -> Result<Box<dyn Target>> {
        todo!()
    }
}
