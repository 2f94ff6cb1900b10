"""A museum's loans office: exhibits, halls, borrowers, transports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Exhibit = Annotated[str, Ref("exhibit", "展品", "exhibit")]
Hall = Annotated[str, Ref("hall", "展厅", "hall")]
Borrower = Annotated[str, Ref("borrower", "借展方", "borrower")]
Deal = Annotated[str, Ref("agreement", "借展协议", "agreement")]
ExhibitTitle = Annotated[str, Words("exhibit title", "展品名称", "title")]
HallName = Annotated[str, Words("hall's name", "展厅名称", "place")]
BorrowerName = Annotated[str, Words("borrower's name", "借展方名称", "team")]
BackDay = Annotated[str, Day("day of return", "归还日")]
Value = Annotated[int, Amount("insurance value in thousands", "保险价值（千元）", 10, 900, 10)]
Climate = Annotated[
    str,
    Choice(
        "climate",
        "环境要求",
        {"dry": ("dry air", "干燥"), "humid": ("humid air", "潮湿"), "dark": ("darkness", "避光")},
    ),
]
Finding = Annotated[str, Words("finding", "检查结果", "note")]


class Museum(World):
    """A lent exhibit hangs nowhere; a closed hall takes no exhibit."""

    NAME = "museum"
    TABLES = {
        "exhibit": Table("EX", "exhibit", "展品", ("“{exhibit_title}”", "《{exhibit_title}》")),
        "hall": Table("HL", "hall", "展厅", ("{name}", "{name}")),
        "borrower": Table("BW", "borrower", "借展方", ("the {borrower_name} society", "{borrower_name}协会")),
        "agreement": Table(
            "AG",
            "agreement",
            "借展协议",
            ("the agreement on {exhibit} with {borrower}", "{borrower}对{exhibit}的借展协议"),
        ),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(3, 4)):
            new.row(
                "hall", name=new.words("place"), status=new.pick("open", "open", "closed"), visitors=new.number(10, 900)
            )
        for _ in range(new.number(3, 4)):
            new.row("borrower", borrower_name=new.words("team"), standing=new.pick("good", "good", "barred"))
        for _ in new.many(5, 7):
            exhibit = new.row(
                "exhibit",
                exhibit_title=new.words("title"),
                hall=new.of("hall"),
                climate="dry",
                insurance_value=new.number(1, 60) * 10,
                finding="",
            )
            if new.rng.random() < 0.35:
                self.state["exhibit"][exhibit]["hall"] = None
                new.row("agreement", exhibit=exhibit, borrower=new.of("borrower"), return_day=new.day())

    def broken(self) -> Iterator[str]:
        for agreement in self.state["agreement"].values():
            if self.state["exhibit"][agreement["exhibit"]]["hall"] is not None:
                yield "a lent exhibit hangs in a hall"

    @finds("exhibit")
    def find_exhibits(self, exhibit_title: ExhibitTitle) -> Result:
        """Find exhibits by title. | 按名称查找展品。"""
        return self.found("exhibit", exhibit_title=exhibit_title)

    @finds("hall")
    def find_halls(self, name: HallName) -> Result:
        """Find halls by name. | 按名称查找展厅。"""
        return self.found("hall", name=name)

    @finds("borrower")
    def find_borrowers(self, borrower_name: BorrowerName) -> Result:
        """Find borrowers by name. | 按名称查找借展方。"""
        return self.found("borrower", borrower_name=borrower_name)

    @finds(
        "agreement",
        ("look up the agreement on {exhibit_id}", "查一下{exhibit_id}的借展协议"),
        ("It comes back on: {r.agreements.return_day}.", "归还日：{r.agreements.return_day}。"),
    )
    def list_agreements(self, exhibit_id: Exhibit) -> Result:
        """List the running agreements on an exhibit. | 列出展品的借展协议。"""
        self.get("exhibit", exhibit_id)
        return self.found("agreement", exhibit=exhibit_id)

    @reads(
        ("count the visitors of {hall_id}", "统计{hall_id}的参观人数"),
        ("It had {r.visitors} visitors.", "共有{r.visitors}人参观。"),
    )
    def count_visitors(self, hall_id: Hall) -> Result:
        """Count the visitors of a hall. | 统计展厅的参观人数。"""
        return {"hall_id": hall_id, "visitors": self.get("hall", hall_id)["visitors"]}

    @changes(
        ("lend {exhibit_id} to {borrower_id} until {return_day}", "把{exhibit_id}借给{borrower_id}，{return_day}归还"),
        (
            "{exhibit_id} goes to {borrower_id} until {return_day}.",
            "{exhibit_id}已借给{borrower_id}，{return_day}归还。",
        ),
    )
    def lend_exhibit(self, exhibit_id: Exhibit, borrower_id: Borrower, return_day: BackDay) -> Result:
        """Lend an exhibit that is in the house to a borrower in good standing. | 把馆内展品借给信誉良好的借展方。"""
        exhibit = self.get("exhibit", exhibit_id)
        self.need(
            self.get("borrower", borrower_id)["standing"] == "good",
            f"Borrower {borrower_id} is barred; readmit it first.",
            f"借展方{borrower_id}被禁止借展，请先恢复资格。",
            ("readmit_borrower", {"borrower_id": borrower_id}),
        )
        self.need(not self.rows("agreement", exhibit=exhibit_id), "The exhibit is lent already.", "该展品已借出。")
        exhibit["hall"] = None
        return self.made("agreement", exhibit=exhibit_id, borrower=borrower_id, return_day=return_day)

    @changes(
        ("prolong {agreement_id} to {return_day}", "把{agreement_id}延长到{return_day}"),
        ("It comes back on {return_day}.", "归还日改为{return_day}。"),
        sets="return_day",
    )
    def prolong_agreement(self, agreement_id: Deal, return_day: BackDay) -> Result:
        """Give an agreement another day of return. | 修改借展协议的归还日。"""
        self.get("agreement", agreement_id)["return_day"] = return_day
        return {"agreement_id": agreement_id, "return_day": return_day}

    @changes(("close {agreement_id}", "终止{agreement_id}"), ("{agreement_id} is closed.", "{agreement_id}已终止。"))
    def close_agreement(self, agreement_id: Deal) -> Result:
        """Close an agreement; the exhibit is back in the depot. | 终止借展协议，展品回库。"""
        self.get("agreement", agreement_id)
        del self.state["agreement"][agreement_id]
        return {"agreement_id": agreement_id, "status": "closed"}

    @changes(
        ("hang {exhibit_id} in {hall_id}|show {exhibit_id} in {hall_id}", "把{exhibit_id}陈列在{hall_id}"),
        ("{exhibit_id} hangs in {hall_id}.", "{exhibit_id}已陈列在{hall_id}。"),
        sets="hall_id",
    )
    def hang_exhibit(self, exhibit_id: Exhibit, hall_id: Hall) -> Result:
        """Hang an exhibit that is not lent in an open hall. | 把未借出的展品陈列在开放的展厅。"""
        exhibit = self.get("exhibit", exhibit_id)
        self.need(
            self.get("hall", hall_id)["status"] == "open",
            f"Hall {hall_id} is closed; open it first.",
            f"展厅{hall_id}已关闭，请先开放。",
            ("open_hall", {"hall_id": hall_id}),
        )
        self.need(not self.rows("agreement", exhibit=exhibit_id), "The exhibit is lent.", "该展品已借出。")
        self.need(exhibit["hall"] != hall_id, "It hangs there already.", "它已在那里。")
        exhibit["hall"] = hall_id
        return {"exhibit_id": exhibit_id, "hall_id": hall_id}

    @changes(("open {hall_id}", "开放{hall_id}"), ("{hall_id} is open.", "{hall_id}已开放。"))
    def open_hall(self, hall_id: Hall) -> Result:
        """Open a closed hall. | 开放关闭的展厅。"""
        hall = self.get("hall", hall_id)
        self.need(hall["status"] == "closed", "The hall is open already.", "该展厅已开放。")
        hall["status"] = "open"
        return {"hall_id": hall_id, "status": "open"}

    @changes(
        ("insure {exhibit_id} for {insurance_value} thousand", "把{exhibit_id}的保险价值设为{insurance_value}千元"),
        ("{exhibit_id} is insured for {insurance_value} thousand.", "{exhibit_id}的保险价值是{insurance_value}千元。"),
        sets="insurance_value",
    )
    def insure_exhibit(self, exhibit_id: Exhibit, insurance_value: Value) -> Result:
        """Set the insurance value of an exhibit. | 设置展品的保险价值。"""
        self.get("exhibit", exhibit_id)["insurance_value"] = insurance_value
        return {"exhibit_id": exhibit_id, "insurance_value": insurance_value}

    @changes(
        ("require {climate} for {exhibit_id}", "为{exhibit_id}设定{climate}环境"),
        ("{exhibit_id} needs {climate}.", "{exhibit_id}需要{climate}。"),
    )
    def set_climate(self, exhibit_id: Exhibit, climate: Climate) -> Result:
        """Say what climate an exhibit needs. | 设定展品的环境要求。"""
        exhibit = self.get("exhibit", exhibit_id)
        self.need(exhibit["climate"] != climate, "It is recorded so already.", "已经如此登记。")
        exhibit["climate"] = climate
        return {"exhibit_id": exhibit_id, "climate": climate}

    @changes(
        ("record the finding {finding} on {exhibit_id}", "为{exhibit_id}登记检查结果{finding}"),
        ("The finding on {exhibit_id} says {finding}.", "{exhibit_id}的检查结果是{finding}。"),
        sets="finding",
    )
    def record_finding(self, exhibit_id: Exhibit, finding: Finding) -> Result:
        """Record what an inspection of an exhibit found. | 登记展品的检查结果。"""
        self.get("exhibit", exhibit_id)["finding"] = finding
        return {"exhibit_id": exhibit_id, "finding": finding}

    @changes(
        ("readmit {borrower_id}", "恢复{borrower_id}的资格"),
        ("{borrower_id} may borrow again.", "{borrower_id}可以再次借展。"),
    )
    def readmit_borrower(self, borrower_id: Borrower) -> Result:
        """Let a barred borrower borrow again. | 恢复借展方的资格。"""
        borrower = self.get("borrower", borrower_id)
        self.need(borrower["standing"] == "barred", "It is in good standing.", "该借展方资格正常。")
        borrower["standing"] = "good"
        return {"borrower_id": borrower_id, "standing": "good"}
