"""A package registry: packages, releases, maintainers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Choice, Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Package = Annotated[str, Ref("package", "软件包", "package")]
Release = Annotated[str, Ref("release", "发行版", "release")]
Keeper = Annotated[str, Ref("keeper", "维护者", "keeper")]
PackageName = Annotated[str, Words("package name", "软件包名", "slug")]
KeeperName = Annotated[str, Words("keeper's name", "维护者姓名", "person")]
Licence = Annotated[
    str, Choice("licence", "许可证", {"mit": ("MIT", "MIT"), "apache": ("Apache", "Apache"), "gpl": ("GPL", "GPL")})
]
Channel = Annotated[
    str,
    Choice(
        "channel",
        "渠道",
        {
            "stable": ("the stable channel", "稳定渠道"),
            "beta": ("the beta channel", "测试渠道"),
            "nightly": ("the nightly channel", "每夜渠道"),
        },
    ),
]
Why = Annotated[str, Words("reason", "原因", "task")]
EndDay = Annotated[str, Day("end of support", "支持截止日")]
Summary = Annotated[str, Words("summary", "简介", "note")]


class Packages(World):
    """A package in quarantine publishes nothing; a yanked release moves to no channel."""

    NAME = "packages"
    TABLES = {
        "package": Table("PK", "package", "软件包", ("the package {package_name}", "软件包{package_name}")),
        "release": Table("RL", "release", "发行版", ("release {version} of {package}", "{package}的{version}版")),
        "keeper": Table("KP", "keeper", "维护者", ("{name}", "{name}")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 6)):
            new.row("keeper", name=new.words("person"))
        for _ in range(new.number(3, 5)):
            package = new.row(
                "package",
                package_name=new.words("slug"),
                keeper=new.of("keeper"),
                licence=new.pick("mit", "apache"),
                trust=new.pick("clear", "clear", "clear", "quarantine"),
                summary="",
                downloads=new.number(100, 99000),
            )
            for minor in range(len(new.many(1, 3))):
                new.row(
                    "release",
                    package=package,
                    version=f"v{new.number(0, 9)}.{minor}.{new.number(0, 30)}",
                    channel=new.pick("stable", "beta", "nightly"),
                    yanked="no",
                    reason="",
                    end_of_support=None,
                )

    def broken(self) -> Iterator[str]:
        if any(r["yanked"] == "no" and r["reason"] for r in self.state["release"].values()):
            yield "a reason for a release that is not yanked"

    def _clear(self, package_id: str) -> None:
        self.need(
            self.get("package", package_id)["trust"] == "clear",
            f"Package {package_id} is in quarantine; clear it first.",
            f"软件包{package_id}已被隔离，请先解除隔离。",
            ("clear_package", {"package_id": package_id}),
        )

    @finds("package")
    def find_packages(self, package_name: PackageName) -> Result:
        """Find packages by name. | 按名称查找软件包。"""
        return self.found("package", package_name=package_name)

    @finds(
        "release",
        ("list the releases of {package_id}", "列出{package_id}的发行版"),
        ("There are {r.releases.version}.", "有这些版本：{r.releases.version}。"),
    )
    def list_releases(self, package_id: Package) -> Result:
        """List the releases of a package. | 列出软件包的发行版。"""
        self.get("package", package_id)
        return self.found("release", package=package_id)

    @finds("keeper")
    def find_keepers(self, name: KeeperName) -> Result:
        """Find keepers by name. | 按姓名查找维护者。"""
        return self.found("keeper", name=name)

    @reads(
        (
            "tell me the downloads of {package_id}|look up how often {package_id} was downloaded",
            "查一下{package_id}的下载量",
        ),
        ("It was downloaded {r.downloads} times.", "下载了{r.downloads}次。"),
    )
    def count_downloads(self, package_id: Package) -> Result:
        """How often a package was downloaded. | 查询软件包的下载次数。"""
        return {"package_id": package_id, "downloads": self.get("package", package_id)["downloads"]}

    @changes(
        ("hand {package_id} over to {keeper_id}", "把{package_id}移交给{keeper_id}"),
        ("{package_id} is kept by {keeper_id}.", "{package_id}由{keeper_id}维护。"),
        sets="keeper_id",
    )
    def hand_over(self, package_id: Package, keeper_id: Keeper) -> Result:
        """Hand a package over to another keeper. | 把软件包移交给另一位维护者。"""
        package = self.get("package", package_id)
        self.get("keeper", keeper_id)
        self._clear(package_id)
        package["keeper"] = keeper_id
        return {"package_id": package_id, "keeper_id": keeper_id}

    @changes(
        ("move {release_id} to {channel}|promote {release_id} to {channel}", "把{release_id}移到{channel}"),
        ("{release_id} is in {channel}.", "{release_id}已移到{channel}。"),
    )
    def move_release(self, release_id: Release, channel: Channel) -> Result:
        """Move a release that is not yanked to another channel. | 把未撤回的发行版移到另一个渠道。"""
        release = self.get("release", release_id)
        self.need(
            release["yanked"] == "no",
            f"Release {release_id} is yanked; restore it first.",
            f"发行版{release_id}已撤回，请先恢复。",
            ("restore_release", {"release_id": release_id}),
        )
        self.need(release["channel"] != channel, "It is in that channel already.", "已经在该渠道。")
        release["channel"] = channel
        return {"release_id": release_id, "channel": channel}

    @changes(
        ("yank {release_id}, giving the reason {reason}", "撤回{release_id}，原因是{reason}"),
        ("{release_id} is yanked.", "{release_id}已撤回。"),
    )
    def yank_release(self, release_id: Release, reason: Why) -> Result:
        """Withdraw a release and say why. | 撤回发行版并说明原因。"""
        release = self.get("release", release_id)
        self.need(release["yanked"] == "no", "The release is yanked already.", "该发行版已撤回。")
        release.update(yanked="yes", reason=reason)
        return {"release_id": release_id, "yanked": "yes", "reason": reason}

    @changes(("restore {release_id}", "恢复{release_id}"), ("{release_id} is back.", "{release_id}已恢复。"))
    def restore_release(self, release_id: Release) -> Result:
        """Bring a yanked release back. | 恢复撤回的发行版。"""
        release = self.get("release", release_id)
        self.need(release["yanked"] == "yes", "The release is not yanked.", "该发行版没有撤回。")
        release.update(yanked="no", reason="")
        return {"release_id": release_id, "yanked": "no"}

    @changes(
        ("support {release_id} until {end_of_support}", "把{release_id}支持到{end_of_support}"),
        ("{release_id} is supported until {end_of_support}.", "{release_id}支持到{end_of_support}。"),
        sets="end_of_support",
    )
    def set_support(self, release_id: Release, end_of_support: EndDay) -> Result:
        """Set until when a release is supported. | 设置发行版的支持截止日。"""
        self.get("release", release_id)["end_of_support"] = end_of_support
        return {"release_id": release_id, "end_of_support": end_of_support}

    @changes(
        ("put {package_id} under the {licence} licence", "把{package_id}改用{licence}许可证"),
        ("{package_id} is under the {licence} licence.", "{package_id}已改用{licence}许可证。"),
    )
    def relicense_package(self, package_id: Package, licence: Licence) -> Result:
        """Put a package under another licence. | 更换软件包的许可证。"""
        package = self.get("package", package_id)
        self._clear(package_id)
        self.need(package["licence"] != licence, "It has that licence already.", "已经是该许可证。")
        package["licence"] = licence
        return {"package_id": package_id, "licence": licence}

    @changes(
        ("describe {package_id} as {summary}", "把{package_id}的简介写成{summary}"),
        ("The summary of {package_id} says {summary}.", "{package_id}的简介是{summary}。"),
        sets="summary",
    )
    def describe_package(self, package_id: Package, summary: Summary) -> Result:
        """Write a package's summary. | 填写软件包简介。"""
        self.get("package", package_id)["summary"] = summary
        return {"package_id": package_id, "summary": summary}

    @changes(
        ("put {package_id} into quarantine", "隔离{package_id}"),
        ("{package_id} is in quarantine.", "{package_id}已隔离。"),
    )
    def quarantine_package(self, package_id: Package) -> Result:
        """Put a package into quarantine. | 隔离软件包。"""
        package = self.get("package", package_id)
        self.need(package["trust"] == "clear", "It is in quarantine already.", "该软件包已隔离。")
        package["trust"] = "quarantine"
        return {"package_id": package_id, "trust": "quarantine"}

    @changes(
        ("clear {package_id} of quarantine", "解除{package_id}的隔离"),
        ("{package_id} is clear.", "{package_id}已解除隔离。"),
    )
    def clear_package(self, package_id: Package) -> Result:
        """Let a package out of quarantine. | 解除软件包的隔离。"""
        package = self.get("package", package_id)
        self.need(package["trust"] == "quarantine", "It is not in quarantine.", "该软件包没有隔离。")
        package["trust"] = "clear"
        return {"package_id": package_id, "trust": "clear"}
