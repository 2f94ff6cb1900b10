"""A town library: books, the copies on its shelves, members and loans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Book = Annotated[str, Ref("book", "图书", "book")]
Copy = Annotated[str, Ref("copy", "馆藏册", "copy")]
Member = Annotated[str, Ref("member", "会员", "member")]
Loan = Annotated[str, Ref("loan", "借阅记录", "loan")]
Title = Annotated[str, Words("title or a part of it", "书名或其中一部分", "title")]
Name = Annotated[str, Words("member's name", "会员姓名", "person")]
DueDay = Annotated[str, Day("due day", "到期日")]
Remark = Annotated[str, Words("remark on the copy", "馆藏备注", "note")]

SHELVES = [f"{letter}{number}" for letter in "ABCDEFGH" for number in range(1, 10)]


class Library(World):
    """Copies are in or out; a blocked card borrows nothing."""

    NAME = "library"
    TABLES = {
        "book": Table("BK", "book", "图书", ("“{title}”", "《{title}》")),
        "copy": Table("CP", "copy", "馆藏册", ("the copy of {book} on shelf {shelf}", "{shelf}架上的{book}")),
        "member": Table("MB", "member", "会员", ("{name}", "{name}")),
        "loan": Table("LN", "loan", "借阅记录", ("{member}'s loan of {copy}", "{member}借的{copy}")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 6)):
            book = new.row("book", title=new.words("title"), author=new.words("person"), year=new.number(1950, 2024))
            for shelf in new.some(SHELVES, 1, len(new.many(3, 3))):
                new.row("copy", book=book, shelf=shelf, status="in", remark="")
        for _ in new.many(4, 6):
            new.row("member", name=new.words("person"), card=new.pick("open", "open", "open", "blocked"))
        for id, copy in list(self.state["copy"].items()):
            if new.rng.random() < 0.4:
                copy["status"] = "out"
                new.row("loan", member=new.of("member"), copy=id, due_day=new.day())

    def broken(self) -> Iterator[str]:
        lent = sorted(loan["copy"] for loan in self.state["loan"].values())
        if lent != sorted(id for id, copy in self.state["copy"].items() if copy["status"] == "out"):
            yield "a copy is out without exactly one loan"

    @finds("book")
    def find_books(self, title: Title) -> Result:
        """Find books by their title. | 按书名查找图书。"""
        return self.found("book", title=title)

    @finds(
        "copy",
        ("list the copies of {book_id}|look up which copies of {book_id} there are", "列出{book_id}的所有馆藏册"),
        ("{book_id} stands on: {r.copies.shelf}.", "{book_id}的馆藏位置：{r.copies.shelf}。"),
    )
    def list_copies(self, book_id: Book) -> Result:
        """List all copies of a book with their shelf and status. | 列出一本图书的全部馆藏册及其位置和状态。"""
        self.get("book", book_id)
        return self.found("copy", book=book_id)

    @finds("member")
    def find_members(self, name: Name) -> Result:
        """Find members by name. | 按姓名查找会员。"""
        return self.found("member", name=name)

    @finds("loan")
    def list_loans(self, member_id: Member) -> Result:
        """List the running loans of a member. | 列出一名会员当前的借阅记录。"""
        self.get("member", member_id)
        return self.found("loan", member=member_id)

    @reads(
        ("tell me when {loan_id} is due|check the due day of {loan_id}", "查一下{loan_id}什么时候到期"),
        ("It is due on {r.due_day}.", "到期日是{r.due_day}。"),
    )
    def get_loan(self, loan_id: Loan) -> Result:
        """One loan with its copy and its due day. | 查询一条借阅记录的馆藏册和到期日。"""
        return self.show("loan", loan_id)

    @changes(
        (
            "lend {copy_id} to {member_id} until {due_day}|check out {copy_id} for {member_id}, due {due_day}",
            "把{copy_id}借给{member_id}，{due_day}到期",
        ),
        ("{copy_id} is lent to {member_id} until {due_day}.", "{copy_id}已借给{member_id}，{due_day}到期。"),
    )
    def lend_copy(self, copy_id: Copy, member_id: Member, due_day: DueDay) -> Result:
        """Lend a copy that is in to a member whose card is open. | 把在架的馆藏册借给借阅证有效的会员。"""
        copy, member = self.get("copy", copy_id), self.get("member", member_id)
        self.need(copy["status"] == "in", "This copy is out.", "这册已经借出。")
        self.need(
            member["card"] == "open",
            f"The card of {member_id} is blocked; reopen it first.",
            f"{member_id}的借阅证已停用，请先恢复。",
            ("reopen_card", {"member_id": member_id}),
        )
        copy["status"] = "out"
        return self.made("loan", member=member_id, copy=copy_id, due_day=due_day)

    @changes(
        ("extend {loan_id} to {due_day}|renew {loan_id} until {due_day}", "把{loan_id}续借到{due_day}"),
        ("It is now due on {due_day}.", "新的到期日是{due_day}。"),
        sets="due_day",
    )
    def extend_loan(self, loan_id: Loan, due_day: DueDay) -> Result:
        """Give a loan another due day. | 修改一条借阅记录的到期日。"""
        self.get("loan", loan_id)["due_day"] = due_day
        return {"loan_id": loan_id, "due_day": due_day}

    @changes(
        ("take back {loan_id}|book {loan_id} as returned", "办理{loan_id}的归还"),
        ("{loan_id} is returned.", "{loan_id}已归还。"),
    )
    def end_loan(self, loan_id: Loan) -> Result:
        """Take a lent copy back. | 归还一册借出的馆藏。"""
        copy_id = self.get("loan", loan_id)["copy"]
        del self.state["loan"][loan_id]
        self.get("copy", copy_id)["status"] = "in"
        return {"copy_id": copy_id, "status": "in"}

    @changes(
        ("block the card of {member_id}", "停用{member_id}的借阅证"),
        ("The card of {member_id} is blocked.", "{member_id}的借阅证已停用。"),
    )
    def block_card(self, member_id: Member) -> Result:
        """Block a member's card. | 停用一名会员的借阅证。"""
        member = self.get("member", member_id)
        self.need(member["card"] == "open", "The card is blocked already.", "该借阅证已经停用。")
        member["card"] = "blocked"
        return {"member_id": member_id, "card": "blocked"}

    @changes(
        ("reopen the card of {member_id}", "恢复{member_id}的借阅证"),
        ("The card of {member_id} is open again.", "{member_id}的借阅证已恢复。"),
    )
    def reopen_card(self, member_id: Member) -> Result:
        """Make a blocked card valid again. | 恢复一张已停用的借阅证。"""
        member = self.get("member", member_id)
        self.need(member["card"] == "blocked", "The card is open already.", "该借阅证本来就有效。")
        member["card"] = "open"
        return {"member_id": member_id, "card": "open"}

    @changes(
        ("put the remark {remark} on {copy_id}", "给{copy_id}加备注{remark}"),
        ("The remark on {copy_id} says {remark}.", "{copy_id}的备注是{remark}。"),
        sets="remark",
    )
    def remark_copy(self, copy_id: Copy, remark: Remark) -> Result:
        """Write a remark on a copy, in place of the old one. | 给一册馆藏写备注，覆盖原来的备注。"""
        self.get("copy", copy_id)["remark"] = remark
        return {"copy_id": copy_id, "remark": remark}
