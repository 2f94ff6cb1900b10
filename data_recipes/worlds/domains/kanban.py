"""A kanban board: projects, lanes of cards, people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Many, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Board = Annotated[str, Ref("board", "看板", "board")]
Card = Annotated[str, Ref("card", "卡片", "card")]
Blocker = Annotated[str, Ref("blocking card", "前置卡片", "card")]
Mate = Annotated[str, Ref("team mate", "成员", "mate")]
BoardName = Annotated[str, Words("board's name", "看板名称", "team")]
MateName = Annotated[str, Words("team mate's name", "成员姓名", "person")]
Headline = Annotated[str, Words("headline", "标题", "task")]
Lane = Annotated[
    str,
    Choice(
        "lane",
        "泳道",
        {
            "backlog": ("the backlog", "待办"),
            "doing": ("doing", "进行中"),
            "review": ("review", "评审"),
            "done": ("done", "完成"),
        },
    ),
]
Points = Annotated[int, Amount("effort in points", "工作量点数", 1, 21)]
Deadline = Annotated[str, Day("deadline", "截止日期")]
Labels = Annotated[list[str], Many("labels", "标签", Words("label", "标签", "tag"))]


class Kanban(World):
    """At most four cards are in the lane ``doing`` of a board; a blocked card does not move to ``done``."""

    NAME = "kanban"
    TABLES = {
        "board": Table("BD", "board", "看板", ("the board “{name}”", "“{name}”看板")),
        "card": Table("CD", "card", "卡片", ("the card “{headline}” on {board}", "{board}上的“{headline}”卡片")),
        "mate": Table("TM", "team mate", "成员", ("{name}", "{name}")),
    }

    def fill(self, new: Maker) -> None:
        for _ in new.many(4, 5):
            new.row("mate", name=new.words("person"))
        for _ in range(new.number(2, 3)):
            board = new.row("board", name=new.words("team"), archived=False)
            for _ in new.many(3, 5):
                lane = new.pick("backlog", "backlog", "review", "doing" if self._room(board) else "review")
                new.row(
                    "card",
                    board=board,
                    headline=new.words("task"),
                    lane=lane,
                    mate=new.pick(None, new.of("mate")),
                    points=new.number(1, 13),
                    deadline=None,
                    labels=[],
                    blocked_by=None,
                )

    def _room(self, board: str) -> bool:
        return len(self.rows("card", board=board, lane="doing")) < 4

    def broken(self) -> Iterator[str]:
        for board in self.state["board"]:
            if len(self.rows("card", board=board, lane="doing")) > 4:
                yield f"too many cards in progress on {board}"

    @finds("board")
    def find_boards(self, name: BoardName) -> Result:
        """Find boards by name. | 按名称查找看板。"""
        return self.found("board", name=name)

    @finds(
        "card",
        ("list the cards of {board_id}|show what is on {board_id}", "列出{board_id}上的卡片"),
        ("On it are: {r.cards.headline}.", "上面有：{r.cards.headline}。"),
    )
    def list_cards(self, board_id: Board) -> Result:
        """List the cards of a board. | 列出一个看板上的全部卡片。"""
        self.get("board", board_id)
        return self.found("card", board=board_id)

    @finds("mate")
    def find_mates(self, name: MateName) -> Result:
        """Find team mates by name. | 按姓名查找成员。"""
        return self.found("mate", name=name)

    @reads(
        ("count the points in {lane} of {board_id}", "统计{board_id}中{lane}泳道的点数"),
        ("It comes to {r.points} points.", "一共{r.points}点。"),
    )
    def count_points(self, board_id: Board, lane: Lane) -> Result:
        """Add up the points of the cards in one lane. | 统计一条泳道里卡片的点数总和。"""
        self.get("board", board_id)
        return {
            "board_id": board_id,
            "lane": lane,
            "points": sum(c["points"] for _, c in self.rows("card", board=board_id, lane=lane)),
        }

    @changes(
        ("add a card {headline} worth {points} points to {board_id}", "在{board_id}上新建卡片{headline}，{points}点"),
        ("The card {headline} is on {board_id}.", "卡片{headline}已加到{board_id}。"),
    )
    def add_card(self, board_id: Board, headline: Headline, points: Points, deadline: Deadline = "") -> Result:
        """Add a card to the backlog of a board. | 在看板的待办中新建卡片。"""
        self.get("board", board_id)
        return self.made(
            "card",
            board=board_id,
            headline=headline,
            lane="backlog",
            mate=None,
            points=points,
            deadline=deadline or None,
            labels=[],
            blocked_by=None,
        )

    @changes(
        ("move {card_id} to {lane}|put {card_id} into {lane}", "把{card_id}移到{lane}"),
        ("{card_id} is in {lane}.", "{card_id}已移到{lane}。"),
    )
    def move_card(self, card_id: Card, lane: Lane) -> Result:
        """Move a card to another lane. | 把卡片移到另一条泳道。"""
        card = self.get("card", card_id)
        self.need(card["lane"] != lane, "The card is there already.", "卡片已经在那里。")
        self.need(
            lane != "done" or card["blocked_by"] is None,
            f"Card {card_id} is blocked; clear the blocker first.",
            f"卡片{card_id}被阻塞，请先解除阻塞。",
            ("clear_blocker", {"card_id": card_id}),
        )
        self.need(
            lane != "doing" or self._room(card["board"]),
            "There are four cards in progress already.",
            "进行中的卡片已有四张。",
        )
        card["lane"] = lane
        return {"card_id": card_id, "lane": lane}

    @changes(
        ("give {card_id} to {mate_id}|assign {card_id} to {mate_id}", "把{card_id}分配给{mate_id}"),
        ("{card_id} is with {mate_id}.", "{card_id}已分配给{mate_id}。"),
        sets="mate_id",
    )
    def assign_card(self, card_id: Card, mate_id: Mate) -> Result:
        """Give a card to a team mate. | 把卡片分配给成员。"""
        card = self.get("card", card_id)
        self.get("mate", mate_id)
        card["mate"] = mate_id
        return {"card_id": card_id, "mate_id": mate_id}

    @changes(
        ("set the deadline of {card_id} to {deadline}", "把{card_id}的截止日期设为{deadline}"),
        ("The deadline of {card_id} is {deadline}.", "{card_id}的截止日期是{deadline}。"),
        sets="deadline",
    )
    def set_deadline(self, card_id: Card, deadline: Deadline) -> Result:
        """Set the deadline of a card. | 设置卡片的截止日期。"""
        self.get("card", card_id)["deadline"] = deadline
        return {"card_id": card_id, "deadline": deadline}

    @changes(
        ("estimate {card_id} at {points} points", "把{card_id}估为{points}点"),
        ("{card_id} is worth {points} points.", "{card_id}的估点是{points}。"),
        sets="points",
    )
    def estimate_card(self, card_id: Card, points: Points) -> Result:
        """Set the effort of a card. | 设置卡片的工作量点数。"""
        self.get("card", card_id)["points"] = points
        return {"card_id": card_id, "points": points}

    @changes(
        ("label {card_id} with {labels}", "给{card_id}打上标签{labels}"),
        ("{card_id} is labelled {labels}.", "{card_id}已打标签{labels}。"),
        sets="labels",
    )
    def label_card(self, card_id: Card, labels: Labels) -> Result:
        """Replace the labels of a card. | 替换卡片的标签。"""
        self.get("card", card_id)["labels"] = labels
        return {"card_id": card_id, "labels": labels}

    @changes(
        ("note that {card_id} is blocked by {blocker_id}", "标记{card_id}被{blocker_id}阻塞"),
        ("{card_id} waits for {blocker_id}.", "{card_id}要等{blocker_id}。"),
        sets="blocker_id",
    )
    def add_blocker(self, card_id: Card, blocker_id: Blocker) -> Result:
        """Say that a card waits for another one. | 标记一张卡片要等另一张完成。"""
        card = self.get("card", card_id)
        self.get("card", blocker_id)
        self.need(card_id != blocker_id, "A card cannot block itself.", "卡片不能阻塞自己。")
        card["blocked_by"] = blocker_id
        return {"card_id": card_id, "blocker_id": blocker_id}

    @changes(
        ("clear the blocker of {card_id}", "解除{card_id}的阻塞"),
        ("{card_id} is not blocked any more.", "{card_id}的阻塞已解除。"),
    )
    def clear_blocker(self, card_id: Card) -> Result:
        """Say that a card waits for nothing any more. | 解除卡片的阻塞。"""
        card = self.get("card", card_id)
        self.need(card["blocked_by"] is not None, "The card is not blocked.", "该卡片没有被阻塞。")
        card["blocked_by"] = None
        return {"card_id": card_id, "blocker_id": None}
