"""A bank's ledger: clients, their pots of money, standing orders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Client = Annotated[str, Ref("client", "客户", "client")]
Pot = Annotated[str, Ref("pot", "账户", "pot")]
Other = Annotated[str, Ref("receiving pot", "收款账户", "pot")]
Order = Annotated[str, Ref("standing order", "定期转账", "order")]
ClientName = Annotated[str, Words("client's name", "客户姓名", "person")]
Purpose = Annotated[
    str,
    Choice(
        "purpose of the pot",
        "账户用途",
        {
            "savings": ("savings", "储蓄"),
            "bills": ("bills", "缴费"),
            "travel": ("travel", "旅行"),
            "gifts": ("gifts", "礼物"),
        },
    ),
]
Sum = Annotated[float, Amount("sum of money", "金额", 5.0, 250.0, 0.5)]
Ceiling = Annotated[int, Amount("daily ceiling", "每日限额", 100, 900, 50)]
Rhythm = Annotated[
    str, Choice("rhythm", "周期", {"weekly": ("every week", "每周"), "monthly": ("every month", "每月")})
]
Wording = Annotated[str, Words("reference", "附言", "task")]


class Ledger(World):
    """No pot falls below zero; a frozen pot pays nothing."""

    NAME = "ledger"
    TABLES = {
        "client": Table("CL", "client", "客户", ("{name}", "{name}")),
        "pot": Table("PO", "pot", "账户", ("{client}'s {purpose} pot", "{client}的{purpose}账户")),
        "order": Table(
            "SO",
            "standing order",
            "定期转账",
            ("the standing order of {amount} from {pot}", "{pot}的{amount}元定期转账"),
        ),
    }

    def fill(self, new: Maker) -> None:
        for _ in new.many(4, 6):
            client = new.row("client", name=new.words("person"))
            for purpose in new.some(("savings", "bills", "travel", "gifts"), 1, 3):
                new.row(
                    "pot",
                    client=client,
                    purpose=purpose,
                    balance=new.number(0, 900) / 2 + 20,
                    ceiling=new.number(2, 18) * 50,
                    access=new.pick("free", "free", "free", "frozen"),
                )
        for _ in new.many(2, 4):
            new.row("order", pot=new.of("pot"), amount=new.number(20, 200) / 2, rhythm=new.pick("weekly", "monthly"))

    def broken(self) -> Iterator[str]:
        if any(pot["balance"] < 0 for pot in self.state["pot"].values()):
            yield "a pot below zero"

    def _pays(self, pot_id: str, amount: float) -> None:
        pot = self.get("pot", pot_id)
        self.need(
            pot["access"] == "free",
            f"Pot {pot_id} is frozen; release it first.",
            f"账户{pot_id}已冻结，请先解冻。",
            ("release_pot", {"pot_id": pot_id}),
        )
        self.need(pot["balance"] >= amount, f"The balance is {pot['balance']:g} only.", f"余额只有{pot['balance']:g}。")
        self.need(pot["ceiling"] >= amount, f"The daily ceiling is {pot['ceiling']}.", f"每日限额是{pot['ceiling']}。")

    @finds("client")
    def find_clients(self, name: ClientName) -> Result:
        """Find clients by name. | 按姓名查找客户。"""
        return self.found("client", name=name)

    @finds(
        "pot",
        ("list the pots of {client_id}", "列出{client_id}的账户"),
        ("The balances are: {r.pots.balance}.", "各账户余额：{r.pots.balance}。"),
    )
    def list_pots(self, client_id: Client) -> Result:
        """List the pots of a client with purpose and balance. | 列出客户的账户、用途和余额。"""
        self.get("client", client_id)
        return self.found("pot", client=client_id)

    @finds("order")
    def list_orders(self, pot_id: Pot) -> Result:
        """List the standing orders of a pot. | 列出一个账户的定期转账。"""
        self.get("pot", pot_id)
        return self.found("order", pot=pot_id)

    @reads(
        ("tell me the balance of {pot_id}|check how much is in {pot_id}", "查一下{pot_id}的余额"),
        ("The balance is {r.balance}.", "余额是{r.balance}。"),
    )
    def get_balance(self, pot_id: Pot) -> Result:
        """The balance of a pot. | 查询一个账户的余额。"""
        return {"pot_id": pot_id, "balance": self.get("pot", pot_id)["balance"]}

    @changes(
        (
            "send {amount} from {pot_id} to {receiver_id}|pay {amount} out of {pot_id} into {receiver_id}",
            "从{pot_id}转{amount}元到{receiver_id}",
        ),
        ("{amount} went from {pot_id} to {receiver_id}.", "已从{pot_id}转{amount}元到{receiver_id}。"),
    )
    def send_money(self, pot_id: Pot, receiver_id: Other, amount: Sum, reference: Wording = "") -> Result:
        """Send money from one pot to another within balance and ceiling. | 在余额和限额内把钱转到另一个账户。"""
        receiver = self.get("pot", receiver_id)
        self.need(pot_id != receiver_id, "Sender and receiver are one pot.", "转出和收款是同一个账户。")
        self._pays(pot_id, amount)
        self.state["pot"][pot_id]["balance"] -= amount
        receiver["balance"] += amount
        return {"pot_id": pot_id, "receiver_id": receiver_id, "amount": amount, "reference": reference}

    @changes(
        ("pay {amount} in cash into {pot_id}", "往{pot_id}存入{amount}元现金"),
        ("{amount} is paid in; the balance is {r.balance}.", "已存入{amount}元，余额{r.balance}。"),
    )
    def pay_in(self, pot_id: Pot, amount: Sum) -> Result:
        """Pay cash into a pot. | 往账户存入现金。"""
        pot = self.get("pot", pot_id)
        pot["balance"] += amount
        return {"pot_id": pot_id, "balance": pot["balance"]}

    @changes(("freeze {pot_id}", "冻结{pot_id}"), ("{pot_id} is frozen.", "{pot_id}已冻结。"))
    def freeze_pot(self, pot_id: Pot) -> Result:
        """Freeze a pot, so that it pays nothing. | 冻结账户，使其不能付款。"""
        pot = self.get("pot", pot_id)
        self.need(pot["access"] == "free", "The pot is frozen already.", "该账户已经冻结。")
        pot["access"] = "frozen"
        return {"pot_id": pot_id, "access": "frozen"}

    @changes(("release {pot_id}", "解冻{pot_id}"), ("{pot_id} is free again.", "{pot_id}已解冻。"))
    def release_pot(self, pot_id: Pot) -> Result:
        """Release a frozen pot. | 解冻账户。"""
        pot = self.get("pot", pot_id)
        self.need(pot["access"] == "frozen", "The pot is not frozen.", "该账户没有冻结。")
        pot["access"] = "free"
        return {"pot_id": pot_id, "access": "free"}

    @changes(
        ("set the daily ceiling of {pot_id} to {ceiling}", "把{pot_id}的每日限额设为{ceiling}"),
        ("The daily ceiling of {pot_id} is {ceiling}.", "{pot_id}的每日限额是{ceiling}。"),
        sets="ceiling",
    )
    def set_ceiling(self, pot_id: Pot, ceiling: Ceiling) -> Result:
        """Set how much a pot may pay in a day. | 设置账户每日可付的上限。"""
        self.get("pot", pot_id)["ceiling"] = ceiling
        return {"pot_id": pot_id, "ceiling": ceiling}

    @changes(
        ("arrange a standing order of {amount} {rhythm} from {pot_id}", "为{pot_id}设置{rhythm}{amount}元的定期转账"),
        ("The standing order of {amount} {rhythm} is arranged.", "{rhythm}{amount}元的定期转账已设置。"),
    )
    def add_order(self, pot_id: Pot, amount: Sum, rhythm: Rhythm) -> Result:
        """Set up a standing order for a pot. | 为账户设置定期转账。"""
        self.get("pot", pot_id)
        return self.made("order", pot=pot_id, amount=amount, rhythm=rhythm)

    @changes(("end {order_id}", "终止{order_id}"), ("{order_id} is ended.", "{order_id}已终止。"))
    def end_order(self, order_id: Order) -> Result:
        """End a standing order. | 终止一个定期转账。"""
        self.get("order", order_id)
        del self.state["order"][order_id]
        return {"order_id": order_id, "status": "ended"}

    @changes(
        ("open a {purpose} pot for {client_id}", "给{client_id}开一个{purpose}账户"),
        ("The {purpose} pot for {client_id} is open.", "{client_id}的{purpose}账户已开通。"),
    )
    def open_pot(self, client_id: Client, purpose: Purpose) -> Result:
        """Open a pot for a purpose that the client has none for. | 为客户开一个尚未有的用途的账户。"""
        self.get("client", client_id)
        self.need(
            not self.rows("pot", client=client_id, purpose=purpose),
            "The client has such a pot.",
            "该客户已有这种账户。",
        )
        return self.made("pot", client=client_id, purpose=purpose, balance=0.0, ceiling=300, access="free")
