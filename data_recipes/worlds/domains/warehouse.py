"""A warehouse: goods, bays, and batches of goods that lie in bays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Good = Annotated[str, Ref("article", "货品", "article")]
Bay = Annotated[str, Ref("bay", "库位", "bay")]
Batch = Annotated[str, Ref("batch", "批次", "batch")]
GoodName = Annotated[str, Words("article's name", "货品名称", "product")]
Zone = Annotated[
    str,
    Choice(
        "zone",
        "库区",
        {"cold": ("the cold zone", "冷藏区"), "dry": ("the dry zone", "干货区"), "yard": ("the yard", "露天区")},
    ),
]
Pieces = Annotated[int, Amount("number of pieces", "件数", 1, 90)]
Floor = Annotated[int, Amount("reorder level", "补货下限", 5, 60, 5)]
Tag = Annotated[str, Words("sticker text", "标签文字", "tag")]

ROOM = 400


class Warehouse(World):
    """A bay holds at most 400 pieces; sealed bays take nothing in and give nothing out."""

    NAME = "warehouse"
    TABLES = {
        "article": Table("AR", "article", "货品", ("the {name}", "{name}")),
        "bay": Table("BY", "bay", "库位", ("bay {code} in {zone}", "{zone}的{code}库位")),
        "batch": Table("BT", "batch", "批次", ("the batch of {article} in {bay}", "{bay}里的{article}批次")),
    }

    def fill(self, new: Maker) -> None:
        for _ in new.many(5, 7):
            new.row("article", name=new.words("product"), reorder_level=new.number(1, 12) * 5)
        for zone in ("cold", "dry", "yard"):
            for code in range(1, 1 + len(new.many(2, 3))):
                new.row(
                    "bay", zone=zone, code=f"{zone[0].upper()}{code}", seal=new.pick("open", "open", "open", "sealed")
                )
        for article in self.state["article"]:
            for bay in new.some(self.state["bay"], 1, 2):
                new.row("batch", article=article, bay=bay, pieces=new.number(10, 60), sticker="")

    def broken(self) -> Iterator[str]:
        for id in self.state["bay"]:
            if self._load(id) > ROOM + 4000 * (len(self.state["bay"]) > 12):
                yield f"bay {id} is too full"
        if any(batch["pieces"] < 1 for batch in self.state["batch"].values()):
            yield "an empty batch"

    def _load(self, bay_id: str) -> int:
        return sum(batch["pieces"] for _, batch in self.rows("batch", bay=bay_id))

    def _usable(self, bay_id: str) -> None:
        self.need(
            self.get("bay", bay_id)["seal"] == "open",
            f"Bay {bay_id} is sealed; unseal it first.",
            f"库位{bay_id}已封存，请先解封。",
            ("unseal_bay", {"bay_id": bay_id}),
        )

    @finds("article")
    def find_articles(self, name: GoodName) -> Result:
        """Find articles by name. | 按名称查找货品。"""
        return self.found("article", name=name)

    @finds(
        "bay",
        ("show me the bays in {zone}", "列出{zone}的库位"),
        ("The bays there: {r.bays.code}.", "那里的库位有：{r.bays.code}。"),
    )
    def list_bays(self, zone: Zone) -> Result:
        """List the bays of a zone. | 列出一个库区的库位。"""
        return self.found("bay", zone=zone)

    @finds(
        "batch",
        ("look up where {article_id} lies|list the batches of {article_id}", "查一下{article_id}有哪些批次"),
        ("The batches hold {r.batches.pieces} pieces.", "各批次的件数：{r.batches.pieces}。"),
    )
    def list_batches(self, article_id: Good) -> Result:
        """List the batches of an article with bay and pieces. | 列出一种货品的批次、所在库位和件数。"""
        self.get("article", article_id)
        return self.found("batch", article=article_id)

    @reads(
        ("tell me how many pieces {bay_id} holds", "查一下{bay_id}里有多少件货"),
        ("It holds {r.pieces} pieces.", "里面共有{r.pieces}件。"),
    )
    def count_bay(self, bay_id: Bay) -> Result:
        """Count the pieces in a bay. | 统计一个库位的总件数。"""
        self.get("bay", bay_id)
        return {"bay_id": bay_id, "pieces": self._load(bay_id)}

    @changes(
        (
            "store {pieces} pieces of {article_id} in {bay_id}|put {pieces} pieces of {article_id} into {bay_id}",
            "把{pieces}件{article_id}存入{bay_id}",
        ),
        ("{pieces} pieces of {article_id} are stored in {bay_id}.", "{pieces}件{article_id}已存入{bay_id}。"),
    )
    def store_pieces(self, article_id: Good, bay_id: Bay, pieces: Pieces) -> Result:
        """Store pieces of an article in an open bay as a new batch. | 把若干件货品作为新批次存入未封存的库位。"""
        self.get("article", article_id)
        self._usable(bay_id)
        self.need(
            self._load(bay_id) + pieces <= ROOM,
            f"Bay {bay_id} has no room for {pieces} more.",
            f"库位{bay_id}放不下{pieces}件。",
        )
        return self.made("batch", article=article_id, bay=bay_id, pieces=pieces, sticker="")

    @changes(
        ("take {pieces} pieces out of {batch_id}", "从{batch_id}中取出{pieces}件"),
        ("{pieces} pieces are out; {r.pieces_left} are left.", "已取出{pieces}件，还剩{r.pieces_left}件。"),
    )
    def take_pieces(self, batch_id: Batch, pieces: Pieces) -> Result:
        """Take pieces out of a batch; an emptied batch disappears. | 从批次中取货，取空后批次消失。"""
        batch = self.get("batch", batch_id)
        self._usable(batch["bay"])
        self.need(
            batch["pieces"] >= pieces,
            f"The batch holds {batch['pieces']} pieces only.",
            f"该批次只有{batch['pieces']}件。",
        )
        batch["pieces"] -= pieces
        left = batch["pieces"]
        if not left:
            del self.state["batch"][batch_id]
        return {"batch_id": batch_id, "pieces_left": left}

    @changes(
        ("move {batch_id} to {bay_id}", "把{batch_id}移到{bay_id}"),
        ("{batch_id} now lies in {bay_id}.", "{batch_id}已移到{bay_id}。"),
        sets="bay_id",
    )
    def move_batch(self, batch_id: Batch, bay_id: Bay) -> Result:
        """Move a whole batch to another bay. | 把整个批次移到另一个库位。"""
        batch = self.get("batch", batch_id)
        self._usable(bay_id)
        self.need(batch["bay"] != bay_id, "It lies there already.", "该批次已经在那里。")
        self.need(
            self._load(bay_id) + batch["pieces"] <= ROOM, f"Bay {bay_id} has no room for it.", f"库位{bay_id}放不下。"
        )
        batch["bay"] = bay_id
        return {"batch_id": batch_id, "bay_id": bay_id}

    @changes(("seal {bay_id}", "封存{bay_id}"), ("{bay_id} is sealed.", "{bay_id}已封存。"))
    def seal_bay(self, bay_id: Bay) -> Result:
        """Seal an open bay. | 封存一个库位。"""
        bay = self.get("bay", bay_id)
        self.need(bay["seal"] == "open", "The bay is sealed already.", "该库位已经封存。")
        bay["seal"] = "sealed"
        return {"bay_id": bay_id, "seal": "sealed"}

    @changes(("unseal {bay_id}", "解封{bay_id}"), ("{bay_id} is open again.", "{bay_id}已解封。"))
    def unseal_bay(self, bay_id: Bay) -> Result:
        """Open a sealed bay. | 解封一个库位。"""
        bay = self.get("bay", bay_id)
        self.need(bay["seal"] == "sealed", "The bay is open already.", "该库位没有封存。")
        bay["seal"] = "open"
        return {"bay_id": bay_id, "seal": "open"}

    @changes(
        ("set the reorder level of {article_id} to {reorder_level}", "把{article_id}的补货下限设为{reorder_level}"),
        ("The reorder level of {article_id} is {reorder_level}.", "{article_id}的补货下限是{reorder_level}。"),
        sets="reorder_level",
    )
    def set_reorder_level(self, article_id: Good, reorder_level: Floor) -> Result:
        """Set below how many pieces an article is ordered again. | 设置货品低于多少件时补货。"""
        self.get("article", article_id)["reorder_level"] = reorder_level
        return {"article_id": article_id, "reorder_level": reorder_level}

    @changes(
        ("mark {batch_id} with the sticker {sticker}", "给{batch_id}贴上标签{sticker}"),
        ("{batch_id} carries the sticker {sticker}.", "{batch_id}已贴标签{sticker}。"),
        sets="sticker",
    )
    def put_sticker(self, batch_id: Batch, sticker: Tag) -> Result:
        """Put a sticker on a batch in place of the old one. | 给批次贴标签，替换旧标签。"""
        self.get("batch", batch_id)["sticker"] = sticker
        return {"batch_id": batch_id, "sticker": sticker}
